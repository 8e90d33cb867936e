"use strict";
(function () {
  const config = { responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: false };
  const read = (element) => JSON.parse(element.textContent);
  const drawn = new Set();

  function draw(target, data, layout) {
    drawn.add(target);
    return Plotly.newPlot(target, data, layout, config);
  }

  for (const target of document.querySelectorAll("[data-figure]")) {
    const source = document.querySelector(`script[data-for="${target.dataset.figure}"]`);
    const figure = read(source);
    draw(target, figure.data, figure.layout);
  }

  const store = document.getElementById("curve-data");
  if (store) {
    const curves = read(store);
    const choice = document.getElementById("curve-model");
    const search = document.getElementById("curve-search");
    const count = document.getElementById("curve-count");
    const panels = document.getElementById("curve-panels");
    const options = Array.from(choice.options);

    let shown = null;

    const show = function () {
      shown = choice.value;
      for (const old of panels.querySelectorAll(".figure")) {
        Plotly.purge(old);
        drawn.delete(old);
      }
      panels.replaceChildren();
      const model = curves.models[Number(choice.value)];
      if (!choice.value || !model) return;
      for (const panel of model.panels) {
        const box = document.createElement("div");
        const head = document.createElement("h4");
        const target = document.createElement("div");
        head.textContent = panel.arm;
        target.className = "figure panel";
        box.append(head, target);
        panels.append(box);
        const layout = structuredClone(curves.layout);
        layout.yaxis.range = model.range.slice();
        draw(target, panel.data.map((trace, place) => Object.assign({}, structuredClone(curves.looks[place]), trace)), layout);
      }
    };

    const filter = function () {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const found = options.filter((option) => words.every((word) => option.text.toLowerCase().includes(word)));
      const before = choice.value;
      choice.replaceChildren(...found);
      // Moving options loses the choice in some browsers.
      if (found.length) choice.value = (found.find((option) => option.value === before) || found[0]).value;
      count.textContent = `${found.length} of ${options.length} PDX models`;
      if (choice.value !== shown) show();
    };

    search.addEventListener("input", filter);
    choice.addEventListener("change", show);
    filter();
  }

  // A figure is as wide as the screen it was drawn on; paper is narrower than a laptop and wider than a phone.
  const paper = (target) => target.classList.contains("panel") ? 205 : target.classList.contains("half") ? 320 : 640;
  window.addEventListener("beforeprint", function () {
    for (const target of drawn) Plotly.relayout(target, { autosize: false, width: paper(target) });
  });
  window.addEventListener("afterprint", function () {
    for (const target of drawn) Plotly.relayout(target, { autosize: true, width: null });
  });
})();
