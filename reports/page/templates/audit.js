"use strict";
const audit = JSON.parse(document.getElementById("audit").textContent);
const key = "whalebench audit " + audit.key;
const main = document.querySelector("main"), done = document.getElementById("done");
const articles = [...document.querySelectorAll("article")];
const COLUMNS = ["first", "second", "verdict", "kind", "likeness", "first_identity", "second_identity"];
const verdicts = {};
let current = 0;

function name(number) { return JSON.stringify([audit.pairs[number].first, audit.pairs[number].second]); }

function draw() {
  articles.forEach((article, number) => {
    article.classList.toggle("current", number === current);
    article.querySelectorAll("button").forEach(button =>
      button.setAttribute("aria-pressed", verdicts[name(number)] === button.dataset.verdict));
  });
  done.textContent =
    articles.filter((_, number) => verdicts[name(number)]).length + " of " + articles.length + " looked at.";
}

function move(to) {
  current = Math.max(0, Math.min(articles.length - 1, to));
  draw();
  if (!articles[current]) return;
  articles[current].focus({preventScroll: true});
  articles[current].scrollIntoView({block: "center"});
}

function decide(number, verdict) {
  if (!articles[number]) return;
  verdicts[name(number)] = verdict;
  draw();
  try { localStorage.setItem(key, JSON.stringify(verdicts)); } catch (error) {
    done.textContent = "This browser keeps nothing: download before you leave.";
  }
}

function cell(value) {
  const text = typeof value === "string" && /^'*[=+@\t\r-]/.test(value) ? "'" + value : String(value);
  return '"' + text.replaceAll('"', '""') + '"';
}

function csv() {
  const rows = audit.pairs.map((pair, number) => ({...pair, verdict: verdicts[name(number)] || ""}));
  return [COLUMNS.join(","), ...rows.map(row => COLUMNS.map(column => cell(row[column])).join(","))]
    .join("\n") + "\n";
}

audit.pairs.forEach((pair, number) => { if (pair.verdict) verdicts[name(number)] = pair.verdict; });
try { Object.assign(verdicts, JSON.parse(localStorage.getItem(key))); } catch (error) { /* as given */ }
main.addEventListener("focusin", event => {  // by Tab, too: keys decide on the pair that has the focus
  const article = event.target.closest("article");
  if (!article) return;
  current = Number(article.dataset.pair);
  draw();
});
main.addEventListener("click", event => {
  const article = event.target.closest("article"), button = event.target.closest("button");
  if (!article) return;
  current = Number(article.dataset.pair);
  draw();
  if (button) decide(current, button.dataset.verdict);
});
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const verdict = {y: "yes", n: "no", u: "unsure"}[event.key];
  if (verdict) {
    const was = current;
    move(current + 1);
    decide(was, verdict);
  } else if (event.key === "j" || event.key === "ArrowDown") move(current + 1);
  else if (event.key === "k" || event.key === "ArrowUp") move(current - 1);
  else if (event.key === "Backspace") decide(current, "");
  else return;
  event.preventDefault();
});
document.getElementById("download").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], {type: "text/csv"}));
  link.download = audit.name + "-verdicts.csv";
  link.click();
});
draw();
