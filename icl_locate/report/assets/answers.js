// All answers of a sweep: unpacked when a reader comes near, filtered, sorted, and only the rows
// in sight are made.

const ROW = 33; // pixels, as in the style sheet
const MARGIN = 12; // rows that are made above and below those in sight

function startAnswers() {
  const place = document.querySelector("#answers .viewer");
  if (!place) return;
  const near = new IntersectionObserver(async (entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    near.disconnect();
    const status = place.querySelector(".status");
    if (typeof DecompressionStream === "undefined") {
      status.textContent = "This browser cannot unpack the answers: open the page with one of 2023"
        + " or later, or read them in answers.csv.";
      return;
    }
    new Viewer(place, status, await unpack(document.getElementById("answers-data")));
  }, { rootMargin: "800px" });
  near.observe(place);
}

async function unpack(block) {
  const letters = atob(block.textContent.trim());
  const packed = new Uint8Array(letters.length);
  for (let i = 0; i < packed.length; i++) packed[i] = letters.charCodeAt(i);
  const stream = new DecompressionStream("gzip");
  const writer = stream.writable.getWriter();
  writer.write(packed);
  writer.close();
  return new Response(stream.readable).json();
}

class Viewer {
  constructor(place, status, data) {
    Object.assign(this, { place, status, data });
    this.shape = [data.conditions, data.layers, data.seeds, data.sources].map((a) => a.length);
    this.has = data.texts.length > 0;
    this.sorted = { column: null, down: false };
    this.active = 0;
    this.rows = [];
    this.makeFilters();
    this.makeTable();
    this.reader = new Reader(this);
    this.filter();
    place.dataset.ready = "yes";
  }

  // Where a row stands: [condition, layer, seed, item].
  at(row) {
    const [, , seeds, items] = this.shape;
    const rest = Math.floor(row / items);
    const above = Math.floor(rest / seeds);
    return [Math.floor(above / this.shape[1]), above % this.shape[1], rest % seeds, row % items];
  }

  row(condition, layer, seed, item) {
    const [, layers, seeds, items] = this.shape;
    return ((condition * layers + layer) * seeds + seed) * items + item;
  }

  text(row) {
    return this.has ? this.data.strings[this.data.texts[row]] : "";
  }

  score(row) {
    return this.data.scores[row];
  }

  // What each column shows and is sorted by.
  columns() {
    const { conditions, layers, seeds, targets } = this.data;
    const found = {
      condition: ["Hidden", (row) => this.at(row)[0], (row) => conditions[this.at(row)[0]]],
      layer: ["Layer", (row) => this.at(row)[1], (row) => layers[this.at(row)[1]]],
      seed: ["Seed", (row) => this.at(row)[2], (row) => seeds[this.at(row)[2]]],
      item: ["Item", (row) => this.at(row)[3], (row) => this.at(row)[3] + 1],
      score: ["Score", (row) => this.score(row), (row) => shown(this.score(row))],
      answer: ["Answer", (row) => this.text(row), (row) => this.text(row)],
      target: ["Wanted", (row) => targets[this.at(row)[3]], (row) => targets[this.at(row)[3]]],
    };
    if (!this.has) delete found.answer;
    return found;
  }

  makeFilters() {
    const { conditions, layers, seeds } = this.data;
    const again = () => this.filter();
    const choice = (label, names) => make("label", {}, label, make(
      "select", { onchange: again, name: label.toLowerCase() },
      make("option", { value: "" }, "all"),
      ...names.map((name, i) => make("option", { value: i }, String(name))),
    ));
    const field = (label, type, more = {}) => make("label", more, label, make(
      "input", { type, step: "any", name: label.toLowerCase().replaceAll(" ", "-"), oninput: again },
    ));
    this.filters = make(
      "form", { class: "filters", role: "search", "aria-label": "Filter the answers" },
      choice("Hidden", conditions), choice("Layer", layers), choice("Seed", seeds),
      field("Item", "number"), field("Score from", "number"), field("Score to", "number"),
      field("Text", "search", { class: "grows" }),
    );
    this.filters.addEventListener("submit", (event) => event.preventDefault());
    this.place.append(this.filters);
  }

  makeTable() {
    this.heads = Object.entries(this.columns()).map(([name, [title]]) => make(
      "th", { scope: "col", class: name, "aria-sort": "none", data: { column: name } },
      make("button", { type: "button", onclick: () => this.sort(name) }, title),
    ));
    this.body = make("tbody");
    this.table = make(
      "table", { role: "grid", "aria-label": "Answers", "aria-describedby": "answers-keys" },
      make("thead", {}, make("tr", { "aria-rowindex": 1 }, ...this.heads)), this.body,
    );
    this.window = make("div", { class: "window", tabindex: "-1" }, this.table);
    this.window.addEventListener("scroll", () => this.render());
    this.body.addEventListener("keydown", (event) => this.press(event));
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr[data-at]");
      if (row) this.open(Number(row.dataset.at));
    });
    this.place.append(this.window);
  }

  // The rows that the filters let through, as far as they say anything.
  filter() {
    const said = Object.fromEntries(new FormData(this.filters));
    const text = said.text.trim().toLowerCase();
    const holds = (words) => words.map((word) => word.toLowerCase().includes(text));
    const [inText, inSource, inTarget] = text
      ? [this.data.strings, this.data.sources, this.data.targets].map(holds) : [];
    const wanted = [said.hidden, said.layer, said.seed].map((x) => (x === "" ? null : Number(x)));
    wanted.push(said.item === "" ? null : Number(said.item) - 1);
    const low = said["score-from"] === "" ? -Infinity : Number(said["score-from"]);
    const high = said["score-to"] === "" ? Infinity : Number(said["score-to"]);
    this.rows = [];
    for (let row = 0; row < this.data.scores.length; row++) {
      const at = this.at(row);
      if (wanted.some((one, i) => one !== null && one !== at[i])) continue;
      if (this.score(row) < low || this.score(row) > high) continue;
      if (text && !(inSource[at[3]] || inTarget[at[3]]
        || (this.has && inText[this.data.texts[row]]))) continue;
      this.rows.push(row);
    }
    this.order();
  }

  sort(column) {
    this.sorted = { column, down: this.sorted.column === column && !this.sorted.down };
    for (const head of this.heads) {
      const way = this.sorted.down ? "descending" : "ascending";
      head.setAttribute("aria-sort", head.dataset.column === column ? way : "none");
    }
    this.order();
  }

  order() {
    const { column, down } = this.sorted;
    this.rows.sort((a, b) => a - b);
    if (column) {
      const key = this.columns()[column][1];
      const keys = new Map(this.rows.map((row) => [row, key(row)]));
      const sign = down ? -1 : 1;
      this.rows.sort((a, b) => {
        const [x, y] = [keys.get(a), keys.get(b)];
        return x < y ? -sign : x > y ? sign : a - b;
      });
    }
    this.active = 0;
    this.window.scrollTop = 0;
    this.table.setAttribute("aria-rowcount", this.rows.length + 1);
    const all = this.data.scores.length.toLocaleString("en");
    const what = this.has ? "answers" : "scores";
    this.status.textContent = `${this.rows.length.toLocaleString("en")} of ${all} ${what} shown`;
    this.render();
  }

  // Makes the rows in sight, between two that are as high as all the others together.
  render() {
    const sight = Math.ceil(this.window.clientHeight / ROW);
    const first = Math.max(0, Math.floor(this.window.scrollTop / ROW) - MARGIN);
    const last = Math.min(this.rows.length, first + sight + 2 * MARGIN);
    const columns = Object.entries(this.columns());
    const held = this.body.contains(document.activeElement);
    const room = (n) => make("tr", { class: "room", "aria-hidden": "true" }, make(
      "td", { style: `height:${n * ROW}px` },
    ));
    const rows = this.rows.slice(first, last).map((row, i) => make(
      "tr",
      {
        tabindex: first + i === this.active ? 0 : -1, "aria-rowindex": first + i + 2,
        data: { at: first + i },
      },
      ...columns.map(([name, [, , show]]) => make("td", { class: name }, String(show(row)))),
    ));
    this.body.replaceChildren(room(first), ...rows, room(this.rows.length - last));
    if (held) this.body.querySelector("[tabindex='0']")?.focus({ preventScroll: true });
  }

  press(event) {
    const page = Math.floor(this.window.clientHeight / ROW) - 2;
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page };
    const ends = { Home: 0, End: this.rows.length - 1 };
    if (event.key === "Enter" || event.key === " ") this.open(this.active);
    else if (event.key in steps) this.move(this.active + steps[event.key]);
    else if (event.key in ends) this.move(ends[event.key]);
    else return;
    event.preventDefault();
  }

  move(to) {
    this.active = Math.min(Math.max(to, 0), this.rows.length - 1);
    const top = this.active * ROW;
    const sight = this.window.clientHeight - 2 * ROW;
    if (top < this.window.scrollTop) this.window.scrollTop = top;
    if (top > this.window.scrollTop + sight) this.window.scrollTop = top - sight;
    this.render();
    this.body.querySelector("[tabindex='0']")?.focus({ preventScroll: true });
  }

  open(place) {
    this.move(place);
    this.reader.show(this.rows[place]);
  }

  // Back from the reader: to the row that was opened, in whatever row of the table it is now.
  back() {
    this.body.querySelector("[tabindex='0']")?.focus({ preventScroll: true });
  }
}

function shown(score) {
  return String(Number(score.toPrecision(4)));
}
