// What the page does beyond plain links and forms. Everything works on what the server says; the
// state is there, so that a page can be closed and opened again.
const byScript = { "X-Requested-With": "script" };

function filled(words, values) {
  return words.replace(/\{(\w+)\}/g, (whole, key) => (key in values ? values[key] : whole));
}

function problem(said) {
  const box = document.createElement("div");
  box.className = "notice bad";
  box.setAttribute("role", "alert");
  const first = box.appendChild(document.createElement("p")).appendChild(document.createElement("strong"));
  first.textContent = said.what;
  for (const line of said.details || []) box.appendChild(document.createElement("p")).textContent = line;
  if (said.fix) box.appendChild(document.createElement("p")).textContent = said.fix;
  return box;
}

// A file that is dropped or chosen, sent as it is.
function bringing(form) {
  const field = form.querySelector("#file");
  const coming = form.querySelector(".coming");
  const bar = form.querySelector("progress");

  function failed(said) {
    bar.hidden = true;
    coming.replaceChildren(problem(said));
    field.value = "";
  }

  function bring(file) {
    const sending = new XMLHttpRequest();
    sending.open("PUT", `${form.dataset.url}?name=${encodeURIComponent(file.name)}`);
    sending.setRequestHeader("X-Requested-With", "script");
    sending.upload.addEventListener("progress", (event) => {
      const percent = Math.round((100 * event.loaded) / (event.total || 1));
      bar.value = percent;
      const words = percent < 100 ? form.dataset.going : form.dataset.reading;
      coming.textContent = filled(words, { name: file.name, percent });
    });
    sending.addEventListener("load", () => {
      let said = { what: form.dataset.failed };
      try { said = JSON.parse(sending.responseText); } catch { said = { what: sending.responseText || said.what }; }
      if (sending.status === 201) location.assign(said.url);
      else failed(said);
    });
    sending.addEventListener("error", () => failed({ what: form.dataset.failed }));
    bar.hidden = false;
    bar.value = 0;
    coming.textContent = filled(form.dataset.going, { name: file.name, percent: 0 });
    sending.send(file);
  }

  field.addEventListener("change", () => { if (field.files[0]) bring(field.files[0]); });
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const kind of ["dragenter", "dragover"]) {
    form.addEventListener(kind, (event) => { event.preventDefault(); form.classList.add("over"); });
  }
  form.addEventListener("dragleave", (event) => {
    if (!form.contains(event.relatedTarget)) form.classList.remove("over");
  });
  form.addEventListener("drop", (event) => {
    event.preventDefault();
    form.classList.remove("over");
    if (event.dataTransfer.files[0]) bring(event.dataTransfer.files[0]);
  });
}

// A run that goes on: the server says what changed. What is open stays open.
function following(part) {
  const say = document.getElementById("say");
  const controls = document.getElementById("controls");
  const events = new EventSource(part.dataset.events);
  let state = part.dataset.state;
  let said = "";
  events.addEventListener("message", (event) => {
    const told = JSON.parse(event.data);
    const open = part.querySelector("details")?.open;
    const focused = part.contains(document.activeElement);
    part.innerHTML = told.html;
    const details = part.querySelector("details");
    if (open && details) details.open = true;
    if (focused) details?.querySelector("summary")?.focus();
    if (told.say !== said) say.textContent = said = told.say;
    if (told.state !== state) {
      const held = controls.contains(document.activeElement);
      controls.innerHTML = told.controls;
      if (held) controls.querySelector("a, button")?.focus();
      document.getElementById("rail").innerHTML = told.rail;
      state = told.state;
      if (!["starting", "running", "stopping"].includes(state)) events.close();
    }
  });
}

// A part of the page that is not ready yet is asked for again until it is.
async function polling(part) {
  while (part?.dataset.poll) {
    await new Promise((done) => setTimeout(done, 900));
    let answer;
    try { answer = await fetch(part.dataset.poll, { headers: byScript }); } catch { continue; }
    if (!answer.ok) return;
    const box = document.createElement("template");
    box.innerHTML = (await answer.text()).trim();
    const fresh = box.content.firstElementChild;
    if (fresh.dataset.poll) { part.dataset.poll = fresh.dataset.poll; continue; }
    part.replaceChildren(...fresh.childNodes);
    delete part.dataset.poll;
  }
}

function sliding(field) {
  const names = field.dataset.names.split(" ");
  const shown = field.parentElement.querySelector("output");
  const tell = () => {
    shown.textContent = names[field.value];
    field.setAttribute("aria-valuetext", names[field.value]);
  };
  field.addEventListener("input", tell);
  tell();
}

function sent(url, fields) {
  const body = new URLSearchParams(fields);
  return fetch(url, { method: "POST", headers: byScript, body });
}

function turn(who, text, mine) {
  const part = document.createElement("div");
  part.className = mine ? "turn mine" : "turn";
  if (who) part.appendChild(document.createElement("b")).textContent = who;
  const words = part.appendChild(document.createElement("p"));
  words.className = "words";
  words.dir = "auto";
  words.textContent = text;
  return part;
}

// One column of the answers. Written ones come in pieces; a form feed opens what went wrong.
async function asked(part, text, form) {
  const { writing, spoken, asking, failed, cut, you } = form.dataset;
  const turns = (part.turns ||= []);
  const waiting = document.createElement("p");
  waiting.className = "muted";
  waiting.textContent = asking;
  let answer = waiting;
  if (spoken) {
    if (!turns.length) part.replaceChildren();
    part.append(turn(you, text, true), waiting);
  } else part.replaceChildren(waiting);
  try {
    const fields = spoken ? [...turns, text].map((one) => ["turn", one]) : [...new FormData(form)];
    const reply = await sent(part.dataset.url, fields);
    if (!reply.ok) throw new Error((await reply.json()).what);
    if (!writing) { part.innerHTML = await reply.text(); return; }
    let whole = "";
    answer = turn("", "", false);
    const words = answer.querySelector(".words");
    for await (const piece of pieces(reply)) {
      if (waiting.isConnected) waiting.replaceWith(answer);
      whole += piece;
      words.textContent = whole.split("\f")[0];
    }
    const wrong = whole.split("\f")[1];
    if (waiting.isConnected) waiting.replaceWith(answer);
    if (wrong) answer.append(problem({ what: wrong }));
    else turns.push(text, whole);
  } catch (error) {
    const what = error instanceof TypeError ? failed : error.message || cut;
    (answer.isConnected ? answer : waiting).replaceWith(problem({ what }));
  }
}

async function* pieces(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

function trying(form) {
  const field = form.querySelector("#text");
  const button = form.querySelector("button");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = field.value;
    if (!text.trim()) return;
    button.disabled = true;
    document.querySelector(".engine .note")?.remove();
    const parts = [...document.querySelectorAll(".reply[data-url]")];
    if (form.dataset.spoken) field.value = "";
    await Promise.all(parts.map((part) => asked(part, text, form)));
    button.disabled = false;
    offered(form, parts, text);
    if (form.dataset.spoken) field.focus();
  });
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}

// What was asked, and what the recommended one answered, is what the form below begins with.
function offered(asked, parts, text) {
  const form = document.getElementById("add");
  if (!form) return;
  for (const name of ["text", "text_pair", "head", "tail"]) {
    const field = form.querySelector(`[name=${name}]`);
    if (field) field.value = name === "text" ? text : asked.querySelector(`[name=${name}]`)?.value ?? "";
  }
  const best = document.querySelector("article.won .reply") || parts[parts.length - 1];
  const answer = form.querySelector("[name=answer]");
  const label = best?.querySelector(".probable .first .name")?.textContent;
  const known = [...(answer.options || [])].find((one) => one.value === label);
  if (known) known.selected = true;
  const lines = best?.querySelector(".lines")?.value;
  if (lines !== undefined) answer.value = lines;
  const names = [...(best?.querySelectorAll(".labels .tag") || [])].map((one) => one.textContent);
  if (names.length) answer.value = names.join("\n");
  const words = best?.querySelector(".turn:last-child .words")?.textContent;
  if (words) answer.value = words;
}

function copying(button) {
  const usual = button.innerHTML;
  button.addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent); } catch { return; }
    button.textContent = button.dataset.copied;
    setTimeout(() => { button.innerHTML = usual; }, 1600);
  });
}

document.querySelectorAll("#drop").forEach(bringing);
document.querySelectorAll("[data-events]").forEach(following);
document.querySelectorAll("[data-poll]").forEach(polling);
document.querySelectorAll("#budget").forEach(sliding);
document.querySelectorAll("#try").forEach(trying);
document.querySelectorAll("[data-copy]").forEach(copying);
