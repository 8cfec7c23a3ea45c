// One item side by side: its answers over the layers, under one condition or several, with the
// words marked that differ.

const AGAINST = {
  above: "the answer in the row above",
  wanted: "the wanted answer",
  nothing: "nothing",
};

class Reader {
  constructor(viewer) {
    this.viewer = viewer;
    this.chosen = new Set();
    this.against = "above";
    this.content = make("div");
    this.dialog = make("dialog", { "aria-labelledby": "reader-title" }, this.content);
    this.dialog.addEventListener("close", () => viewer.back());
    this.dialog.addEventListener("keydown", (event) => this.press(event));
    viewer.place.append(this.dialog);
  }

  show(row) {
    [this.condition, this.layer, this.seed, this.item] = this.viewer.at(row);
    this.chosen = new Set([this.condition]);
    this.draw();
    this.dialog.showModal();
    this.dialog.querySelector(".close").focus();
  }

  press(event) {
    if (event.target.matches("input, select")) return;
    const steps = { ArrowRight: 1, ArrowLeft: -1 };
    if (event.key in steps) this.step(steps[event.key]);
  }

  step(by) {
    const n = this.viewer.data.sources.length;
    this.item = (this.item + by + n) % n;
    this.redraw();
  }

  // Draws anew, and leaves the keyboard where it was.
  redraw() {
    const held = document.activeElement?.dataset.key;
    this.draw();
    this.dialog.querySelector(`[data-key="${held}"]`)?.focus();
  }

  draw() {
    const { data } = this.viewer;
    const text = (what, value) => [make("dt", {}, what), make("dd", { class: "text" }, value)];
    this.content.replaceChildren(
      this.header(),
      make("dl", {}, ...text("Query", data.sources[this.item]),
        ...text("Wanted", data.targets[this.item])),
      this.controls(),
      make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Over layers" },
        this.table()),
    );
  }

  header() {
    const n = this.viewer.data.sources.length;
    const button = (label, key, act, more = {}) => make(
      "button", { type: "button", onclick: act, data: { key }, ...more }, label,
    );
    return make(
      "header", {},
      make("h2", { id: "reader-title", "aria-live": "polite" }, `Item ${this.item + 1} of ${n}`),
      button("Previous item", "previous", () => this.step(-1)),
      button("Next item", "next", () => this.step(1)),
      button("Close", "close", () => this.dialog.close(), { class: "close" }),
    );
  }

  controls() {
    const { conditions, seeds } = this.viewer.data;
    const choose = (i) => make("label", {}, make("input", {
      type: "checkbox", checked: this.chosen.has(i) ? "" : null, data: { key: `condition${i}` },
      onchange: (event) => {
        if (event.target.checked) this.chosen.add(i);
        else this.chosen.delete(i);
        this.redraw();
      },
    }), ` ${conditions[i]}`);
    const select = (label, key, names, value, set) => make("label", {}, `${label} `, make(
      "select", { data: { key }, onchange: (e) => { set(e.target.value); this.redraw(); } },
      ...names.map(([id, name]) => make(
        "option", { value: id, selected: String(id) === String(value) ? "" : null }, String(name),
      )),
    ));
    const parts = [
      make("fieldset", {}, make("legend", {}, "Hidden"), ...conditions.map((_, i) => choose(i))),
      select("Seed", "seed", seeds.map((s, i) => [i, s]), this.seed, (v) => {
        this.seed = Number(v);
      }),
    ];
    if (this.viewer.has) {
      parts.push(select("Mark what differs from", "against", Object.entries(AGAINST), this.against,
        (v) => { this.against = v; }));
    }
    return make("div", { class: "filters" }, ...parts);
  }

  table() {
    const { conditions, layers } = this.viewer.data;
    const shown = [...this.chosen].sort((a, b) => a - b);
    const last = layers.length - 1;
    const says = this.viewer.has && this.against !== "nothing"
      ? "Underlined: words that the other lacks. Struck through: words that it has instead." : "";
    return make(
      "table", {},
      make("caption", {}, says),
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Layer"),
        ...shown.map((c) => make("th", { scope: "col" }, conditions[c])))),
      make("tbody", {}, ...layers.map((layer, l) => make(
        "tr", {},
        make("th", { scope: "row" }, l === last ? `${layer} (nothing hidden)` : String(layer)),
        ...shown.map((c) => this.cell(c, l)),
      ))),
    );
  }

  cell(condition, layer) {
    const { viewer } = this;
    const row = viewer.row(condition, layer, this.seed, this.item);
    const here = condition === this.condition && layer === this.layer;
    return make(
      "td", { "aria-current": here ? "true" : null },
      make("small", {}, `score ${shown(viewer.score(row))}`),
      make("div", { class: "text" }, ...this.marked(condition, layer, row)),
    );
  }

  // An answer with its differences marked, by tags that are read out as well as seen.
  marked(condition, layer, row) {
    const { viewer } = this;
    const text = viewer.text(row);
    const above = viewer.row(condition, layer - 1, this.seed, this.item);
    const other = this.against === "wanted" ? viewer.data.targets[this.item]
      : this.against === "above" && layer > 0 ? viewer.text(above) : null;
    if (!viewer.has) return [];
    if (other === null || other === text) return [text || "(empty)"];
    const tags = { same: "span", new: "ins", gone: "del" };
    return difference(other, text).map((piece) => make(tags[piece.kind], {}, piece.text));
  }
}
