// Figures are drawn as they come near, and all of them before the page is printed. Their colours
// of text and ground stand in the style sheet, so that they follow the reader's choice at once.

const PAPER = 680; // pixels of a printed page's width
const WAIT = 100; // milliseconds, in which words come first
const narrow = matchMedia("(max-width: 40rem)");

// Runs plotly.js, once: it stands in the page as a text, so that the page opens without it. The
// page's policy lets it run by its digest.
function loadPlotly() {
  if (globalThis.Plotly) return;
  document.head.append(make("script", {}, document.getElementById("plotly").textContent));
}

function fitted(layout, place) {
  if (!narrow.matches || place.classList.contains("wide")) return layout;
  const title = { ...layout.legend?.title, side: "top" };
  const legend = { orientation: "h", x: 0, xanchor: "left", y: -0.22, yanchor: "top", title };
  return {
    ...layout,
    legend: { ...layout.legend, ...legend },
    margin: { ...layout.margin, l: 48, r: 12 },
    height: (layout.height ?? 450) + 140,
  };
}

function draw(place) {
  const canvas = place.querySelector(".canvas");
  if (place.drawn || !canvas.offsetParent) return; // drawn already, or folded away
  loadPlotly();
  place.drawn = JSON.parse(place.querySelector("script").textContent);
  const layout = fitted(place.drawn.layout, place);
  canvas.style.height = `${layout.height ?? 450}px`;
  Plotly.newPlot(canvas, place.drawn.data, layout, place.drawn.config);
}

function drawAgain(place) {
  if (!place.drawn) return;
  place.drawn = null;
  draw(place);
}

function resize(place, width) {
  if (place.drawn) Plotly.relayout(place.querySelector(".canvas"), width);
}

function startFigures() {
  const places = [...document.querySelectorAll("figure.plot")];
  const near = new IntersectionObserver((entries) => {
    const now = entries.filter((entry) => entry.isIntersecting).map((entry) => entry.target);
    setTimeout(() => now.forEach(draw), WAIT);
  }, { rootMargin: "500px" });
  places.forEach((place) => near.observe(place));
  narrow.addEventListener("change", () => places.forEach(drawAgain));
  addEventListener("beforeprint", () => {
    places.forEach(draw);
    places.forEach((place) => resize(place, { width: PAPER }));
  });
  addEventListener("afterprint", () => {
    places.forEach((place) => resize(place, { width: null, autosize: true }));
  });
}
