"use strict";
// What pages on which one decides have in common: the article that keys are about, what the browser keeps, the CSV.

const main = document.querySelector("main"), done = document.getElementById("done");
const articles = [...document.querySelectorAll("article")];
let current = 0;

function stand(number) {
  articles[current]?.classList.remove("current");
  current = number;
  articles[current]?.classList.add("current");
}

function tell(isLooked) {
  done.textContent = articles.filter((_, number) => isLooked(number)).length + " of " + articles.length + " looked at.";
}

function move(to) {
  stand(Math.max(0, Math.min(articles.length - 1, to)));
  const article = articles[current];
  if (!article) return;
  article.focus({preventScroll: true});
  article.scrollIntoView({block: article.offsetHeight < .8 * innerHeight ? "center" : "start"});
}

function come(event) {  // by Tab, too: keys decide on the article that has the focus
  const article = event.target.closest("article");
  if (!article) return null;
  stand(articles.indexOf(article));
  return article;
}

function keep(key, decisions) {
  try { localStorage.setItem(key, JSON.stringify(decisions)); } catch (error) {
    done.textContent = "This browser keeps nothing: download before you leave.";
  }
}

function kept(key) {
  try { return JSON.parse(localStorage.getItem(key)) || {}; } catch (error) { return {}; }
}

function cell(value) {
  const text = typeof value === "string" && /^'*[=+@\t\r-]/.test(value) ? "'" + value : String(value);
  return '"' + text.replaceAll('"', '""') + '"';
}

function csv(columns, rows) {
  return [columns.join(","), ...rows.map(row => columns.map(column => cell(row[column])).join(","))].join("\n") + "\n";
}

function download(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "text/csv"}));
  link.download = name;
  link.click();
}

function onKeys(act) {
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input")) return;
    if (act(event.key)) event.preventDefault();
  });
}

main.addEventListener("focusin", come);
stand(0);
