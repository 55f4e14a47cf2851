"use strict";
// Pairs one after the other, in an order of the rater's own; the answers become a file that the browser saves.
(() => {
  const { seed, pairs } = JSON.parse(document.getElementById("pairs").textContent);  // of each its id and both sides
  const field = (id) => document.getElementById(id);
  const buttons = [...document.querySelectorAll("[data-answer]")];
  const answers = new Map(), seconds = new Map();  // by pair id
  let rater = "", order = [], at = 0, since = 0, saved = true;

  // FNV-1a, then the finaliser of MurmurHash3: an order that the seed and the rater's name fix on every machine
  const hash = (text) => {
    let value = 0x811c9dc5;
    for (const letter of text) value = Math.imul(value ^ letter.codePointAt(0), 0x01000193);
    value = Math.imul(value ^ (value >>> 16), 0x85ebca6b);
    value = Math.imul(value ^ (value >>> 13), 0xc2b2ae35);
    return (value ^ (value >>> 16)) >>> 0;
  };
  const shuffled = () => {
    const key = (pair) => hash(`${seed}\n${rater}\n${pair[0]}`);
    return [...pairs].sort((a, b) => key(a) - key(b) || (a[0] < b[0] ? -1 : 1));
  };

  const view = (name) => { for (const id of ["start", "rate", "end"]) field(id).hidden = id !== name; };
  const fill = (place, sources, title) => {
    field(place).replaceChildren(...sources.map((source) => {
      const image = document.createElement("img");
      image.src = source;
      image.alt = title;
      return image;
    }));
  };
  const count = () => {  // the time that this pair was seen, over all visits
    const id = order[at][0];
    seconds.set(id, (seconds.get(id) || 0) + (performance.now() - since) / 1000);
  };

  const show = () => {
    since = performance.now();
    field("progress").value = answers.size;
    if (at === order.length) return view("end");
    const [id, first, second] = order[at];
    fill("first", first, "first image");
    fill("second", second, "second image");
    document.querySelector(".images").style.setProperty("--rows", first.length);
    field("count").textContent = `${at + 1} of ${order.length}`;
    for (const button of buttons) button.setAttribute("aria-pressed", String(answers.get(id) === button.dataset.answer));
    field("back").disabled = at === 0;
    field("on").disabled = !answers.has(id);
    view("rate");
  };
  const go = (step) => {
    if (at < order.length) count();
    at += step;
    show();
  };
  const answer = (word) => {
    answers.set(order[at][0], word);
    saved = false;
    go(1);
  };

  const fits = () => /^[\p{L}\p{N}][\p{L}\p{N} ._-]*$/u.test(field("name").value.trim());  // no formula, no separator
  const begin = () => {
    if (!fits()) return;
    rater = field("name").value.trim();
    order = shuffled();
    show();
  };
  const save = () => {
    const lines = order.map(([id]) => [rater, id, answers.get(id), seconds.get(id).toFixed(1)].join(","));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([["rater,pair_id,answer,seconds", ...lines, ""].join("\n")], { type: "text/csv" }));
    link.download = `ratings_${rater.replaceAll(" ", "_")}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);  // once the browser has read it
    saved = true;
  };

  field("name").addEventListener("input", () => { field("begin").disabled = !fits(); });
  field("name").addEventListener("keydown", (event) => { if (event.key === "Enter") begin(); });
  field("begin").addEventListener("click", begin);
  field("back").addEventListener("click", () => go(-1));
  field("on").addEventListener("click", () => go(1));
  field("again").addEventListener("click", () => go(-1));
  field("save").addEventListener("click", save);
  for (const button of buttons) button.addEventListener("click", () => answer(button.dataset.answer));
  document.addEventListener("keydown", (event) => {
    if (!field("start").hidden || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
    const chosen = field("rate").hidden ? undefined : buttons[["1", "2", "3"].indexOf(event.key)];
    if (chosen) answer(chosen.dataset.answer);
    else if (event.key === "ArrowLeft" && at > 0) go(-1);
    else if (event.key === "ArrowRight" && !field("rate").hidden && !field("on").disabled) go(1);
    else return;
    event.preventDefault();
  });
  addEventListener("beforeunload", (event) => { if (!saved) event.preventDefault(); });
})();
