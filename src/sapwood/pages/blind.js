"use strict";
const form = document.getElementById("ballot");
const { ballot, schema, count } = form.dataset;
const kept = "sapwood-blind-" + ballot; // votes outlive a closed page where the browser allows it

function votes() {
  const found = {};
  for (const [name, value] of new FormData(form)) found[name] = value;
  return found;
}

function told() {
  const said = votes();
  const done = document.getElementById("done");
  done.textContent = done.dataset.text.replace("{done}", Object.keys(said).length);
  try { localStorage.setItem(kept, JSON.stringify(said)); } catch { /* a private window */ }
}

function recalled() {
  let said = {};
  try { said = JSON.parse(localStorage.getItem(kept)) || {}; } catch { /* nothing was kept */ }
  for (const [name, value] of Object.entries(said)) {
    const own = form.querySelector(`input[name="${CSS.escape(name)}"][value="${CSS.escape(value)}"]`);
    if (own) own.checked = true;
  }
}

function saved(event) {
  event.preventDefault();
  const voter = document.getElementById("voter").value.trim();
  const text = JSON.stringify({ schema, ballot, voter, votes: votes() }, null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = `votes-${ballot}.json`;
  link.click();
  const copy = document.getElementById("copy"); // for browsers that save nothing from a file
  copy.value = text;
  copy.hidden = document.getElementById("copy-note").hidden = false;
}

recalled();
told();
form.addEventListener("change", told);
form.addEventListener("submit", saved);
