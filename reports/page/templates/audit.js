"use strict";
const audit = JSON.parse(document.getElementById("audit").textContent);
const key = "whalebench audit " + audit.key;
const COLUMNS = ["first", "second", "verdict", "kind", "likeness", "first_identity", "second_identity"];
const verdicts = {};

function name(number) { return JSON.stringify([audit.pairs[number].first, audit.pairs[number].second]); }

function draw(number) {
  articles[number].querySelectorAll("button").forEach(button =>
    button.setAttribute("aria-pressed", verdicts[name(number)] === button.dataset.verdict));
}

function looked(number) { return verdicts[name(number)]; }

function decide(number, verdict) {
  if (!articles[number]) return;
  verdicts[name(number)] = verdict;
  draw(number);
  tell(looked);
  keep(key, verdicts);
}

audit.pairs.forEach((pair, number) => { if (pair.verdict) verdicts[name(number)] = pair.verdict; });
Object.assign(verdicts, kept(key));
main.addEventListener("click", event => {
  const button = event.target.closest("button");
  if (come(event) && button) decide(current, button.dataset.verdict);
});
onKeys(pressed => {
  const verdict = {y: "yes", n: "no", u: "unsure"}[pressed];
  if (verdict) {
    const was = current;
    move(current + 1);
    decide(was, verdict);
  } else if (pressed === "j" || pressed === "ArrowDown") move(current + 1);
  else if (pressed === "k" || pressed === "ArrowUp") move(current - 1);
  else if (pressed === "Backspace") decide(current, "");
  else return false;
  return true;
});
document.getElementById("download").addEventListener("click", () => {
  const rows = audit.pairs.map((pair, number) => ({...pair, verdict: verdicts[name(number)] || ""}));
  download(audit.name + "-verdicts.csv", csv(COLUMNS, rows));
});
articles.forEach((_, number) => draw(number));
tell(looked);
