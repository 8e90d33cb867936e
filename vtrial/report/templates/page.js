"use strict";
(function () {
  const config = { responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: false };
  const read = (element) => JSON.parse(element.textContent);
  const drawn = new Set();

  function draw(target, data, layout) {
    drawn.add(target);
    return Plotly.newPlot(target, data, layout, config);
  }

  // Figures are drawn when they come near the window; until then their height keeps the page from jumping.
  const waiting = new Map();
  const drawNow = function (target) {
    const figure = waiting.get(target);
    if (!figure) return;
    waiting.delete(target);
    target.style.minHeight = "";
    draw(target, figure.data, figure.layout);
  };
  const near = new IntersectionObserver(function (entries) {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      drawNow(entry.target);
    }
  }, { rootMargin: "600px 0px" });
  for (const target of document.querySelectorAll("[data-figure]")) {
    const figure = read(document.querySelector(`script[data-for="${target.dataset.figure}"]`));
    target.style.minHeight = `${figure.layout.height}px`;
    waiting.set(target, figure);
    near.observe(target);
  }

  function save(name, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
    link.download = `${name}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  let tables = null;
  for (const button of document.querySelectorAll("[data-csv]")) {
    button.addEventListener("click", function () {
      tables = tables || read(document.getElementById("csv-data"));
      save(button.dataset.csv, tables[button.dataset.csv]);
    });
  }

  const store = document.getElementById("curve-data");
  if (store) {
    const curves = read(store);
    const search = document.getElementById("curve-search");
    const count = document.getElementById("curve-count");
    const panels = document.getElementById("curve-panels");
    const back = document.getElementById("curve-back");
    const on = document.getElementById("curve-on");
    const pageSize = 12;
    const all = curves.models.flatMap((model) => model.arms.map((arm) => ({
      model, arm, words: `${model.model} ${model.tumour_type} ${arm.arm}`.toLowerCase(),
    })));
    let found = all;
    let first = 0;

    // Plotly reads its texts as a little HTML.
    const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/\$/g, "&#36;");

    function extend(trace, xs, ys) {
      if (trace.x.length) { trace.x.push(null); trace.y.push(null); }
      trace.x.push(...xs);
      trace.y.push(...ys);
    }

    // The same as vtrial.report.curves.panel_data.
    function traces(model, arm) {
      const [reference, band, median, seen, below] = curves.looks.map(() => ({ x: [], y: [], text: [] }));
      if (!arm.control) {
        for (const other of model.arms) {
          if (other.control) for (const mouse of other.mice) extend(reference, mouse.day, mouse.fitted);
        }
      }
      for (const mouse of arm.mice) {
        extend(band, [...mouse.day, ...mouse.day.slice().reverse()], [...mouse.high, ...mouse.low.slice().reverse()]);
        extend(median, mouse.day, mouse.fitted);
        mouse.day.forEach(function (day, place) {
          const hidden = mouse.below.includes(place);
          const what = hidden ? `at or below ${curves.limit} mm³` : `${mouse.volume[place]} mm³`;
          const trace = hidden ? below : seen;
          trace.x.push(day);
          trace.y.push(hidden ? curves.limit : mouse.volume[place]);
          trace.text.push(`${plain(mouse.mouse)}<br>day ${day}: ${what}<br>fitted ${mouse.fitted[place]} mm³`);
        });
      }
      return [reference, band, median, seen, below].map((data, place) => Object.assign({}, structuredClone(curves.looks[place]), data));
    }

    function show() {
      for (const old of panels.querySelectorAll(".figure")) {
        Plotly.purge(old);
        drawn.delete(old);
      }
      panels.replaceChildren();
      for (const { model, arm } of found.slice(first, first + pageSize)) {
        const box = document.createElement("div");
        const head = document.createElement("h4");
        const name = document.createElement("span");
        const target = document.createElement("div");
        head.textContent = arm.arm;
        name.className = "sub";
        name.textContent = `${model.model}, ${model.tumour_type}`;
        head.append(name);
        target.className = "figure panel";
        box.append(head, target);
        panels.append(box);
        const layout = structuredClone(curves.layout);
        layout.yaxis.range = model.range.slice();
        draw(target, traces(model, arm), layout);
      }
      const last = Math.min(first + pageSize, found.length);
      const models = new Set(found.map((one) => one.model)).size;
      count.textContent = found.length
        ? `${first + 1} to ${last} of ${found.length.toLocaleString("en")} panels, ${models} PDX models`
        : "nothing found";
      back.disabled = first === 0;
      on.disabled = last >= found.length;
    }

    function filter() {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      found = all.filter((one) => words.every((word) => one.words.includes(word)));
      first = 0;
      show();
    }

    let pause = null;
    search.addEventListener("input", function () {
      clearTimeout(pause);
      pause = setTimeout(filter, 150);
    });
    back.addEventListener("click", function () { first = Math.max(first - pageSize, 0); show(); });
    on.addEventListener("click", function () { first += pageSize; show(); });
    document.getElementById("curve-csv").addEventListener("click", function () {
      const cell = (value) => /[",\n\r]/.test(value) ? `"${String(value).replace(/"/g, '""')}"` : value;
      const lines = ["pdx_model,tumour_type,arm,mouse,day,volume_mm3,at_or_below_limit,fitted_median,q05,q95"];
      for (const { model, arm } of found) {
        for (const mouse of arm.mice) {
          mouse.day.forEach((day, place) => lines.push([
            model.model, model.tumour_type, arm.arm, mouse.mouse, day, mouse.volume[place],
            mouse.below.includes(place), mouse.fitted[place], mouse.low[place], mouse.high[place],
          ].map(cell).join(",")));
        }
      }
      save("curves", lines.join("\n") + "\n");
    });
    const shown = new IntersectionObserver(function (entries) {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      shown.disconnect();
      if (!panels.childElementCount) filter();
    }, { rootMargin: "600px 0px" });
    shown.observe(panels);
    window.addEventListener("beforeprint", function () { if (!panels.childElementCount) filter(); });
  }

  // A figure is as wide as the screen it was drawn on; paper is narrower than a laptop and wider than a phone.
  const widths = { panel: 205, third: 208, square: 460 };
  const paper = (target) => widths[Object.keys(widths).find((name) => target.classList.contains(name))] || 650;
  window.addEventListener("beforeprint", function () {
    for (const target of [...waiting.keys()]) drawNow(target);
    for (const target of drawn) {
      // what is higher than a sheet of A4 with its caption would be cut in two
      const zoom = Math.min(1, 880 / target.layout.height);
      target.style.zoom = zoom;
      Plotly.relayout(target, { autosize: false, width: paper(target) / zoom });
    }
  });
  window.addEventListener("afterprint", function () {
    for (const target of drawn) {
      target.style.zoom = "";
      Plotly.relayout(target, { autosize: true, width: null });
    }
  });
})();
