// Line charts with bands, markers and hover values, redrawn to the width that they are given.
"use strict";
(() => {
  const { data, el, svg, chosen } = window.outdo;
  const DASHES = ["", "", "", "", "7 3", "2 3", "9 3 2 3", "5 2", "1 2", "12 4"];
  const SUPER = "⁰¹²³⁴⁵⁶⁷⁸⁹";
  const AXES = { flops: "FLOPs", seconds: "seconds", calls: "judge calls" };

  const colour = (s) => (s.colour === 10 ? "var(--ink)" : `var(--c${Number(s.colour)})`);
  const superscript = (n) => (n < 0 ? "⁻" : "") + [...String(Math.abs(n))].map((d) => SUPER[d]).join("");

  function trim(x, digits = 3) {
    return String(Number(x.toPrecision(digits)));
  }

  function showY(spec, y) {
    return spec.y === "percent" ? (100 * y).toFixed(1) + " %" : trim(y, 4);
  }

  function showX(axis, x) {
    if (axis === "seconds") return x < 90 ? trim(x) + " s" : trim(x / 60) + " min";
    if (axis === "calls") return Math.round(x).toLocaleString("en") + " judge calls";
    if (x === 0) return "0 FLOPs";
    const power = Math.floor(Math.log10(Math.abs(x)));
    return `${(x / 10 ** power).toFixed(2)} × 10${superscript(power)} FLOPs`;
  }

  /** About n round numbers that cover [low, high]. */
  function ticks(low, high, n) {
    const raw = (high - low || 1) / n,
      base = 10 ** Math.floor(Math.log10(raw));
    const step = base * [1, 2, 2.5, 5, 10].find((m) => m * base >= raw * 0.999);
    const out = [];
    for (let i = Math.floor(low / step + 1e-9); i * step <= high + step * 1e-6 || out.length < 2; i++)
      out.push(i * step);
    return out;
  }

  /** The ends of the y axis: 0 to 100 % at most for shares, otherwise what the data need, with 0 where it is near. */
  function limits(spec, ys) {
    let low = Math.min(...ys),
      high = Math.max(...ys);
    if (spec.y === "percent" || (low >= 0 && low < 0.6 * high)) low = Math.min(0, low);
    if (spec.y === "percent" && high > 0.5) high = Math.max(1, high);
    if (low === high) high = low + (Math.abs(low) || 1) * 0.1;
    if (low !== 0) low -= 0.05 * (high - low);
    return [low, high];
  }

  function marker(shape, x, y, r, attributes) {
    if (shape === 1) return svg("rect", { x: x - r, y: y - r, width: 2 * r, height: 2 * r, ...attributes });
    if (shape === 2)
      return svg("path", { d: `M${x} ${y - 1.3 * r}L${x + 1.2 * r} ${y + r}H${x - 1.2 * r}Z`, ...attributes });
    if (shape === 3)
      return svg("path", {
        d: `M${x} ${y - 1.4 * r}L${x + 1.4 * r} ${y}L${x} ${y + 1.4 * r}L${x - 1.4 * r} ${y}Z`,
        ...attributes,
      });
    return svg("circle", { cx: x, cy: y, r, ...attributes });
  }

  class Chart {
    constructor(box, id) {
      this.box = box;
      this.id = id;
      this.spec = data.charts[id];
      this.small = Boolean(this.spec.small);
      this.off = new Set(this.spec.series.filter((s) => s.hidden).map((s) => s.name));
      this.legend = el("div", { class: "chart-legend" });
      this.plot = el("div", { class: "plot" });
      this.tip = el("div", { class: "tip", role: "status" });
      this.tip.hidden = true;
      box.append(...(this.small ? [] : [this.legend]), this.plot);
      for (const name of ["axis", "group", "start"]) {
        for (const input of document.getElementsByName(`${id}-${name}`))
          input.addEventListener("change", () => this.draw());
      }
      new ResizeObserver(() => {
        if (Math.abs(box.clientWidth - this.width) > 1) this.draw();
      }).observe(box);
      this.draw();
    }

    state() {
      this.axis = chosen(`${this.id}-axis`, "flops");
      this.branch = chosen(`${this.id}-start`, "root") === "branch" ? this.spec.branch[this.axis] : 0;
      const group = chosen(`${this.id}-group`, "sampled"),
        branched = chosen(`${this.id}-start`, "root") === "branch";
      this.candidates = this.spec.series.filter(
        (s) => (s.group === "all" || s.group === group) && !(branched && s.trunk),
      );
      this.visible = this.candidates.filter((s) => !this.off.has(s.name));
    }

    draw() {
      this.state();
      const narrow = this.box.clientWidth < 560;
      this.width = this.box.clientWidth || 600;
      this.height = this.small ? 165 : Math.max(260, Math.min(440, 0.5 * this.width));
      this.margin = this.small ? { l: 44, r: 10, t: 8, b: 34 } : { l: 50, r: narrow ? 14 : 118, t: 12, b: 44 };
      const points = this.visible.flatMap((s) => s.points);
      const xs = points.map((p) => p.x[this.axis] - this.branch);
      const ys = points
        .flatMap((p) => [p.y, p.lo ?? p.y, p.hi ?? p.y])
        .concat(this.spec.lines.flatMap((l) => [l.y, l.lo ?? l.y, l.hi ?? l.y]));
      const high = Math.max(...xs, 0);
      [this.x0, this.x1] = [0, high || 1];
      [this.y0, this.y1] = limits(this.spec, ys.length ? ys : [0, 1]);
      const label = `Line chart: ${this.spec.ylabel || this.spec.title || ""}; the same numbers are in the table`;
      this.svg = svg("svg", {
        viewBox: `0 0 ${this.width} ${this.height}`,
        role: "img",
        "aria-label": label,
        tabindex: 0,
      });
      this.axes();
      if (!this.small) this.references();
      this.visible.forEach((s) => this.band(s));
      this.visible.forEach((s) => this.line(s));
      if (!this.small && !narrow) this.labels();
      this.focus = svg("g", { class: "focus" });
      this.svg.append(this.focus);
      this.plot.replaceChildren(this.svg, this.tip);
      this.tip.hidden = true;
      if (!this.small) this.drawLegend();
      this.listen();
    }

    px(x) {
      return this.margin.l + ((x - this.x0) / (this.x1 - this.x0)) * (this.width - this.margin.l - this.margin.r);
    }
    py(y) {
      return (
        this.height -
        this.margin.b -
        ((y - this.y0) / (this.y1 - this.y0)) * (this.height - this.margin.t - this.margin.b)
      );
    }
    at(p) {
      return [this.px(p.x[this.axis] - this.branch), this.py(p.y)];
    }

    axes() {
      const right = this.width - this.margin.r,
        bottom = this.height - this.margin.b;
      for (const y of ticks(this.y0, this.y1, this.small ? 3 : 5)) {
        if (y > this.y1 * (1 + 1e-9) || y < this.y0 - 1e-9) continue;
        this.svg.append(
          svg("line", {
            class: y === 0 ? "base" : "grid",
            x1: this.margin.l,
            x2: right,
            y1: this.py(y),
            y2: this.py(y),
          }),
        );
        const text = this.spec.y === "percent" ? trim(100 * y) + " %" : trim(y);
        this.svg.append(
          svg("text", { class: "tick", x: this.margin.l - 7, y: this.py(y) + 4, "text-anchor": "end" }, text),
        );
      }
      const power = this.axis === "flops" ? Math.floor(Math.log10(this.x1)) : 0;
      for (const x of ticks(this.x0, this.x1, this.small ? 3 : this.width < 560 ? 4 : 7)) {
        if (x > this.x1 * (1 + 1e-9)) continue;
        const text = this.axis === "flops" ? trim(x / 10 ** power) : x.toLocaleString("en");
        this.svg.append(svg("text", { class: "tick", x: this.px(x), y: bottom + 16, "text-anchor": "middle" }, text));
        if (!this.small)
          this.svg.append(
            svg("line", { class: "tickmark", x1: this.px(x), x2: this.px(x), y1: bottom, y2: bottom + 4 }),
          );
      }
      const unit =
        this.axis === "flops"
          ? `${this.spec.xlabel || "FLOPs spent on training"}${power ? ` (× 10${superscript(power)})` : ""}`
          : this.axis === "seconds"
            ? "seconds of training"
            : "judge calls";
      if (this.small && power)
        this.svg.append(
          svg(
            "text",
            { class: "tick", x: right, y: this.height - 1, "text-anchor": "end" },
            `× 10${superscript(power)} FLOPs`,
          ),
        );
      if (!this.small)
        this.svg.append(
          svg(
            "text",
            { class: "axis", x: (this.margin.l + right) / 2, y: this.height - 8, "text-anchor": "middle" },
            unit,
          ),
        );
    }

    references() {
      for (const l of this.spec.lines) {
        if (l.y == null) continue;
        const right = this.width - this.margin.r,
          ends = { x1: this.margin.l, x2: right };
        if (l.lo != null) {
          this.svg.append(
            svg("rect", {
              class: "teacher-band",
              x: this.margin.l,
              width: right - this.margin.l,
              y: this.py(l.hi),
              height: this.py(l.lo) - this.py(l.hi),
            }),
          );
        }
        this.svg.append(svg("line", { class: "teacher", ...ends, y1: this.py(l.y), y2: this.py(l.y) }));
        this.svg.append(
          svg(
            "text",
            { class: "teacher-label", x: this.margin.l + 6, y: this.py(l.y) - 5 },
            `${l.label}: ${showY(this.spec, l.y)}`,
          ),
        );
      }
    }

    band(s) {
      const banded = s.points.filter((p) => p.lo != null && p.hi != null);
      if (banded.length < 2) return;
      const x = (p) => this.px(p.x[this.axis] - this.branch);
      const up = banded.map((p) => `${x(p)},${this.py(p.hi)}`),
        down = banded.map((p) => `${x(p)},${this.py(p.lo)}`).reverse();
      this.svg.append(
        svg("polygon", { class: "band", points: [...up, ...down].join(" "), style: `fill:${colour(s)}` }),
      );
    }

    line(s) {
      const points = s.points.map((p) => this.at(p).join(",")).join(" ");
      this.svg.append(
        svg("polyline", {
          class: "series",
          points,
          style: `stroke:${colour(s)}`,
          "stroke-dasharray": this.small ? "" : DASHES[s.colour] || "",
        }),
      );
      if (this.small) return;
      for (const p of s.points)
        this.svg.append(marker(s.colour % 4, ...this.at(p), 3, { style: `fill:${colour(s)}`, class: "marker" }));
    }

    /** Names of the arms at the right, pushed apart where they would touch. */
    labels() {
      const right = this.width - this.margin.r;
      const ends = this.visible.filter((s) => s.arm).map((s) => ({ s, at: this.at(s.points[s.points.length - 1]) }));
      const order = ends
        .filter((e) => e.at[0] > right - 0.25 * (right - this.margin.l))
        .sort((a, b) => a.at[1] - b.at[1]);
      let last = this.margin.t - 8;
      for (const e of order) {
        e.y = Math.max(e.at[1], last + 14);
        last = e.y;
      }
      for (let i = order.length - 1, floor = this.height - this.margin.b; i >= 0; i--) {
        order[i].y = Math.min(order[i].y, floor);
        floor = order[i].y - 14;
      }
      for (const { s, at, y } of order) {
        this.svg.append(
          svg("path", { class: "leader", d: `M${at[0] + 5} ${at[1]}L${right + 4} ${y}`, style: `stroke:${colour(s)}` }),
        );
        this.svg.append(
          svg("text", { class: "series-label", x: right + 8, y: y + 4, style: `fill:${colour(s)}` }, s.name),
        );
      }
    }

    drawLegend() {
      const button = (s) => {
        const sample = svg(
          "svg",
          { width: 26, height: 10, "aria-hidden": "true" },
          svg("line", {
            x1: 0,
            x2: 26,
            y1: 5,
            y2: 5,
            class: "series",
            style: `stroke:${colour(s)}`,
            "stroke-dasharray": DASHES[s.colour] || "",
          }),
          marker(s.colour % 4, 13, 5, 3, { style: `fill:${colour(s)}` }),
        );
        const b = el("button", { type: "button", "aria-pressed": String(!this.off.has(s.name)) }, sample, s.name);
        b.addEventListener("click", () => {
          if (!this.off.delete(s.name)) this.off.add(s.name);
          const i = [...this.legend.children].indexOf(b);
          this.draw();
          this.legend.children[i].focus();
        });
        return b;
      };
      this.legend.replaceChildren(...this.candidates.map(button));
    }

    listen() {
      const all = this.visible.flatMap((s) => s.points.map((p) => ({ s, p })));
      const nearest = (mx, my) =>
        all.reduce(
          (best, c) => {
            const [x, y] = this.at(c.p),
              d = (x - mx) ** 2 + (y - my) ** 2;
            return d < best.d ? { d, c } : best;
          },
          { d: Infinity },
        ).c;
      this.svg.addEventListener("pointermove", (e) => {
        const box = this.svg.getBoundingClientRect(),
          k = this.width / box.width;
        this.show(nearest((e.clientX - box.left) * k, (e.clientY - box.top) * k));
      });
      this.svg.addEventListener("pointerleave", () => this.show(undefined));
      this.svg.addEventListener("blur", () => this.show(undefined));
      this.svg.addEventListener("keydown", (e) => {
        const s = this.visible.indexOf(this.current?.s),
          n = this.visible.length;
        if (!n || !e.key.startsWith("Arrow")) return;
        e.preventDefault();
        const series =
          this.visible[e.key === "ArrowUp" ? (s - 1 + n) % n : e.key === "ArrowDown" ? (s + 1) % n : Math.max(s, 0)];
        const i = series.points.indexOf(this.current?.p),
          last = series.points.length - 1;
        const next = e.key === "ArrowRight" ? Math.min(i + 1, last) : e.key === "ArrowLeft" ? Math.max(i - 1, 0) : last;
        this.show({ s: series, p: series.points[next] });
      });
    }

    /** Show the values of one point, or hide them. */
    show(found) {
      this.current = found;
      this.focus.replaceChildren();
      this.tip.hidden = !found;
      if (!found) return;
      const { s, p } = found,
        [x, y] = this.at(p);
      this.focus.append(
        svg("line", { class: "crosshair", x1: x, x2: x, y1: this.margin.t, y2: this.height - this.margin.b }),
      );
      this.focus.append(marker(s.colour % 4, x, y, 5, { style: `fill:${colour(s)}`, class: "marker" }));
      const lines = [
        el("b", { style: `color:${colour(s)}` }, s.name),
        el("span", { class: "tip-value" }, showY(this.spec, p.y)),
      ];
      if (p.lo != null) lines.push(el("span", {}, `95 %: ${showY(this.spec, p.lo)} to ${showY(this.spec, p.hi)}`));
      lines.push(el("span", {}, showX(this.axis, p.x[this.axis] - this.branch)));
      if (!this.small && p.n) lines.push(el("span", {}, `n = ${p.n}`));
      this.tip.replaceChildren(...lines);
      const k = this.svg.getBoundingClientRect().width / this.width;
      const left = Math.min(
        Math.max(k * x - this.tip.offsetWidth / 2, 0),
        Math.max(0, k * this.width - this.tip.offsetWidth),
      );
      const above = k * y - this.tip.offsetHeight - 12;
      this.tip.style.left = `${left}px`;
      this.tip.style.top = `${above < 0 ? k * y + 14 : above}px`;
    }
  }

  for (const box of document.querySelectorAll("[data-chart]")) new Chart(box, box.dataset.chart);
})();
