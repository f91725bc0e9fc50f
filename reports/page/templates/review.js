"use strict";
const review = JSON.parse(document.getElementById("review").textContent);
const key = "whalebench review " + review.key;
const COLUMNS = ["photo", "encounter", "decision", "individual", "probability", "run", "when"];
const decisions = kept(key);  // by look: by place of the candidate, or "new", what was decided, and when
const before = [];  // what was decided on a look before each decision, to be undone
const chosen = review.looks.map(() => 0);

function of(number) { return decisions[review.looks[number].id] || {}; }

function looked(number) { return Object.keys(of(number)).length; }

function draw(number) {
  const decided = of(number), article = articles[number];
  article.querySelectorAll("[data-choice]").forEach(one => {
    one.classList.toggle("chosen", Number(one.dataset.choice) === chosen[number]);
    one.querySelectorAll("button").forEach(button =>
      button.setAttribute("aria-pressed", decided[one.dataset.choice]?.decision === button.dataset.decision));
  });
  article.querySelector("[data-decision=new]").setAttribute("aria-pressed", "new" in decided);
  const same = review.looks[number].choices.filter((_, place) => decided[place]?.decision === "same");
  article.querySelector(".note").hidden = same.length < 2;
}

function set(number, decided) {
  decisions[review.looks[number].id] = decided;
  draw(number);
  tell(looked);
  keep(key, decisions);
}

function typed(number) { return articles[number].querySelector("input").value.trim(); }

function decide(number, place, decision) {
  const decided = {...of(number)};
  before.push([number, of(number)]);
  if (decided[place]?.decision === decision) delete decided[place];
  else decided[place] = {decision, when: new Date().toISOString(), name: place === "new" ? typed(number) : ""};
  if (decision === "same") delete decided.new;  // it cannot be both
  if (decision === "new")
    for (const other of Object.keys(decided)) if (decided[other].decision === "same") delete decided[other];
  set(number, decided);
}

function undo() {
  const last = before.pop();
  if (!last) return;
  move(last[0]);
  set(...last);
}

function choose(number, place) {
  if (place < 0 || place >= review.looks[number].choices.length) return false;
  chosen[number] = place;
  draw(number);
  return true;
}

function rows() {
  return review.looks.flatMap((look, number) => Object.entries(of(number)).flatMap(([place, one]) => {
    const choice = look.choices[place];
    const nameless = look.photos.length > 1 ? look.encounter + "-new" : "";  // all photos of it are one animal
    const individual = choice ? choice.name : one.name || nameless;
    const probability = (choice ? choice.probability : look.new) ?? "";
    const shared = {encounter: look.encounter, decision: one.decision, individual, probability};
    return look.photos.map(photo => ({photo, ...shared, run: review.run, when: one.when}));
  }));
}

main.addEventListener("click", event => {
  const button = event.target.closest("button"), choice = event.target.closest("[data-choice]");
  if (!come(event)) return;
  if (choice) choose(current, Number(choice.dataset.choice));
  if (button) decide(current, choice ? choice.dataset.choice : "new", button.dataset.decision);
});
main.addEventListener("input", event => {
  const number = articles.indexOf(event.target.closest("article")), decided = of(number);
  if (decided.new) set(number, {...decided, new: {...decided.new, name: typed(number)}});
});
main.addEventListener("keydown", event => {
  if (event.key === "Enter" && event.target.matches("input") && !("new" in of(current))) decide(current, "new", "new");
});
onKeys(pressed => {
  const decision = {s: "same", d: "different", n: "new", u: "unsure"}[pressed];
  if (pressed === "j" || pressed === "ArrowDown") move(current + 1);
  else if (pressed === "k" || pressed === "ArrowUp") move(current - 1);
  else if (pressed === "Backspace" || pressed === "z") undo();
  else if (/^[1-5]$/.test(pressed) && articles[current]) choose(current, Number(pressed) - 1);
  else if (decision && articles[current]) {
    const place = decision === "new" ? "new" : String(chosen[current]);
    if (place !== "new" && !review.looks[current].choices.length) return false;
    if (of(current)[place]?.decision !== decision) decide(current, place, decision);
    const goesOn = decision === "same" || decision === "new" || !choose(current, chosen[current] + 1);
    if (goesOn) move(current + 1);
  } else return false;
  return true;
});
document.getElementById("download").addEventListener("click", () =>
  download(review.name + "-decisions.csv", csv(COLUMNS, rows())));
articles.forEach((article, number) => {
  article.querySelector("input").value = of(number).new?.name || "";
  draw(number);
});
tell(looked);
