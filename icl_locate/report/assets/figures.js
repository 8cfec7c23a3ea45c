// Figures are drawn as they come near, and all of them before the page is printed. Their colours
// of text and ground stand in the style sheet, so that they follow the reader's choice at once.

const PAPER = 680; // pixels of a printed page's width
const narrow = matchMedia("(max-width: 40rem)");

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

function startFigures() {
  const places = [...document.querySelectorAll("figure.plot")];
  const near = new IntersectionObserver((entries) => {
    entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target));
  }, { rootMargin: "500px" });
  places.forEach((place) => near.observe(place));
  narrow.addEventListener("change", () => places.forEach(drawAgain));
  addEventListener("beforeprint", () => places.forEach((place) => {
    draw(place);
    if (place.drawn) Plotly.relayout(place.querySelector(".canvas"), { width: PAPER });
  }));
  addEventListener("afterprint", () => places.forEach((place) => {
    if (!place.drawn) return;
    Plotly.relayout(place.querySelector(".canvas"), { width: null, autosize: true });
  }));
}
