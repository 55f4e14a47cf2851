"use strict";
// The table of matches: sorted, filtered and paged in memory; at most 10,000 rows, which stay quick. Text is set as text.
(() => {
  const { units, rows } = JSON.parse(document.getElementById("rows").textContent);  // of each row its image's number
  const table = document.getElementById("matches");
  const heads = [...table.tHead.rows[0].cells];
  const names = heads.map((head) => head.textContent);
  const at = Object.fromEntries(names.map((name, index) => [name, index]));
  const page = 50;
  const field = (id) => document.getElementById(id);
  let shown = rows.map((_, index) => index), start = 0, column = at["p value"], ascending = true;

  const text = (value) => {
    if (value === null) return "\u2013";
    if (typeof value !== "number" || Number.isInteger(value)) return String(value);
    return Math.abs(value) < 1e-3 && value !== 0 ? value.toExponential(1) : value.toFixed(3);
  };

  const compare = (a, b) => {
    const x = rows[a][column], y = rows[b][column];
    if (x === null || y === null) return (x === null) - (y === null);  // unknown values last, whatever the order
    const order = typeof x === "number" ? x - y : x < y ? -1 : x > y ? 1 : 0;
    return (ascending ? order : -order) || a - b;
  };

  const draw = () => {
    const body = document.createElement("tbody");
    for (const index of shown.slice(start, start + page)) {
      const line = body.insertRow();
      if (rows[index][at.memorized]) line.className = "hit";
      rows[index].forEach((value, place) => {
        const cell = line.insertCell();
        if (typeof value === "number" || value === null) cell.className = "n";
        const target = place === 0 && document.getElementById("pair-" + units[index]);
        if (target) {
          const link = document.createElement("a");
          link.href = "#pair-" + units[index];
          link.textContent = text(value);
          cell.append(link);
        } else {
          cell.textContent = text(value);
        }
      });
    }
    table.tBodies[0].replaceWith(body);
    const last = Math.min(start + page, shown.length);
    field("count").textContent = shown.length
      ? `${start + 1} to ${last} of ${shown.length}` + (shown.length < rows.length ? ` (${rows.length} in all)` : "")
      : "no image fits";
    field("previous").disabled = start === 0;
    field("next").disabled = last >= shown.length;
    heads.forEach((head, index) =>
      index === column ? head.setAttribute("aria-sort", ascending ? "ascending" : "descending") : head.removeAttribute("aria-sort"));
  };

  const choose = () => {
    const words = field("search").value.toLowerCase(), label = field("label").value, called = field("called").value;
    const searched = [at["generated id"], at["train id"], at["train subject"]];
    shown = rows.map((_, index) => index).filter((index) => {
      const row = rows[index];
      return (!label || row[at.label] === label) && (!called || String(row[at.memorized]) === called)
        && (!words || searched.some((place) => row[place].toLowerCase().includes(words)));
    }).sort(compare);
    start = 0;
    draw();
  };

  heads.forEach((head, index) => head.firstElementChild.addEventListener("click", () => {
    ascending = index === column ? !ascending : true;
    column = index;
    choose();
  }));
  for (const id of ["search", "label", "called"]) field(id).addEventListener("input", choose);
  field("previous").addEventListener("click", () => { start = Math.max(0, start - page); draw(); });
  field("next").addEventListener("click", () => { start += page; draw(); });
  choose();
})();

// A picture, large: the generated image, the training image and their difference in turn, or the first two blinking.
(() => {
  const viewer = document.getElementById("viewer"), image = viewer.querySelector("img"), title = viewer.querySelector("p");
  let views = [], at = 0, timer = 0;

  const show = (index) => {
    if (!views[index]) return;  // a map stands alone
    at = index;
    image.src = views[at].src;
    image.alt = title.textContent = views[at].alt;
  };
  const still = () => { clearInterval(timer); timer = 0; };

  for (const button of document.querySelectorAll(".view button")) {
    button.addEventListener("click", () => {
      const all = [...button.closest(".row").querySelectorAll("img")], place = all.indexOf(button.firstElementChild);
      views = all.slice(place - (place % 3), place - (place % 3) + 3);  // three a plane
      show(place % 3);
      viewer.showModal();
    });
  }
  image.addEventListener("click", () => { still(); show((at + 1) % views.length); });
  document.getElementById("blink").addEventListener("click", () => {
    if (timer) return still();
    show(0);
    timer = setInterval(() => show(at === 0 ? 1 : 0), 700);
  });
  document.getElementById("difference").addEventListener("click", () => { still(); show(2); });
  document.getElementById("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("close", still);
})();

// All axial slices of a volume and of its match, a slider for both: one long picture each, of which a slice is seen.
(() => {
  for (const stack of document.querySelectorAll(".stack")) {
    const pages = stack.querySelector(".pages"), slider = stack.querySelector("input"), slices = Number(pages.dataset.slices);
    const show = () => {
      for (const image of pages.querySelectorAll("img")) {
        image.parentElement.style.aspectRatio = `${image.naturalWidth} / ${image.naturalHeight / slices}`;
        image.style.top = `${-100 * Number(slider.value)}%`;
      }
    };
    slider.addEventListener("input", show);
    stack.addEventListener("toggle", show);
  }
})();
