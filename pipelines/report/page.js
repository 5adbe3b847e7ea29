"use strict";
const specs = JSON.parse(document.getElementById("charts").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function theme() {
  const [text, line] = ["var(--text)", "var(--line)"];  // of the page: on a dark screen as on paper
  const font = "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif";
  const words = { labelColor: text, titleColor: text, labelFont: font, titleFont: font, labelFontSize: 13,
    titleFontSize: 13, titleFontWeight: "normal" };
  return { background: null, font, view: { stroke: null }, legend: words,
    axis: { ...words, gridColor: line, domainColor: line, tickColor: line }, text: { color: text, fontSize: 13 },
    line: { color: "#2f7fd1", strokeWidth: 2.5 }, point: { color: "#2f7fd1" }, bar: { color: "#2f7fd1" } };
}

async function draw() {
  let drawn = 0;
  for (const place of document.querySelectorAll(".chart")) {
    const spec = structuredClone(specs[place.id]);
    if (place.clientWidth < 500 && spec.layer)  // long names would leave no room for the chart
      for (const part of spec.layer)
        if (part.encoding.y && part.encoding.y.axis && part.encoding.y.axis.labelLimit)
          part.encoding.y.axis.labelLimit = 178;
    await window.vegaEmbed(place, spec, { actions: false, renderer: "svg", config: theme(),
      tooltip: { theme: dark.matches ? "dark" : "light" } });
    drawn += 1;
  }
  document.body.dataset.drawn = String(drawn);
}

const field = document.getElementById("search");
const told = document.getElementById("found");
function search() {
  const wanted = field.value.trim().toLowerCase();
  let count = 0;
  for (const row of document.querySelectorAll("tbody tr, article, ul.attention li")) {
    row.hidden = wanted !== "" && !row.textContent.toLowerCase().includes(wanted);
    count += row.hidden ? 0 : 1;
  }
  told.textContent = wanted === "" ? "" : `${count} found`;
}
field.addEventListener("input", search);
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== field) { event.preventDefault(); field.focus(); }
  if (event.key === "Escape") { field.value = ""; search(); }
});
draw();
