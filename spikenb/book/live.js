// A live figure: range inputs -> compute(p) -> lines in SVG panels. No library, no kernel, no request.
function spikenbLive(root, spec, ask, data) {
  const W = 420, H = 260, left = 58, right = 14, top = 12, bottom = 42;
  const inputs = [...root.querySelectorAll("input")], say = root.querySelector(".spike-say");
  const compute = p => ask(p, data);
  const make = (tag, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const short = v => v === 0 ? "0" : Math.abs(v) >= 1e5 || Math.abs(v) < 1e-3 ? v.toExponential(0) : String(+v.toPrecision(3));

  function range(panel, axis, result) {
    const fixed = panel[axis + "lim"];
    if (fixed) return fixed;
    const log = panel["log" + axis];
    let low = Infinity, high = -Infinity;
    for (const line of panel.lines) for (const v of result[line[axis]])
      if (Number.isFinite(v) && (!log || v > 0)) { low = Math.min(low, v); high = Math.max(high, v); }
    if (axis === "y" && panel.threshold) { low = Math.min(low, panel.threshold[0]); high = Math.max(high, panel.threshold[0]); }
    if (low > high) return [0, 1];
    if (low === high) return log ? [low / 10, high * 10] : [low - 1, high + 1];
    const pad = axis === "y" && !log ? 0.05 * (high - low) : 0;
    return [low - pad, high + pad];
  }
  function ticks([low, high], log) {
    const found = [];
    if (log) {
      const a = Math.ceil(Math.log10(low) - 1e-9), b = Math.floor(Math.log10(high) + 1e-9), step = Math.max(1, Math.ceil((b - a) / 4));
      for (let e = a; e <= b; e += step) found.push([10 ** e, Math.abs(e) < 4 ? short(10 ** e) : "1e" + e]);
      return found;
    }
    const rough = (high - low) / 4, unit = 10 ** Math.floor(Math.log10(rough));
    const step = unit * [1, 2, 5, 10].find(m => m * unit >= rough);
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push([k * step, short(+(k * step).toPrecision(6))]);
    return found;
  }
  function draw(svg, panel, result) {
    svg.replaceChildren();
    const xr = range(panel, "x", result), yr = range(panel, "y", result);
    const scale = (r, log, a, b) => v => {
      const f = log ? (Math.log10(v) - Math.log10(r[0])) / (Math.log10(r[1]) - Math.log10(r[0])) : (v - r[0]) / (r[1] - r[0]);
      return a + (b - a) * Math.min(1.5, Math.max(-0.5, f));
    };
    const X = scale(xr, panel.logx, left, W - right), Y = scale(yr, panel.logy, H - bottom, top);
    const id = root.id + "-clip";
    const clip = make("clipPath", {id});
    clip.append(make("rect", {x: left, y: top - 4, width: W - left - right + 4, height: H - top - bottom + 8}));
    svg.append(clip, make("path", {class: "axis", d: `M${left} ${top}V${H - bottom}H${W - right}`}));
    for (const [v, text] of ticks(xr, panel.logx)) svg.append(make("text", {x: X(v), y: H - bottom + 16, "text-anchor": "middle"}, text));
    for (const [v, text] of ticks(yr, panel.logy)) svg.append(make("text", {x: left - 6, y: Y(v) + 4, "text-anchor": "end"}, text));
    svg.append(make("text", {x: (left + W - right) / 2, y: H - 6, "text-anchor": "middle"}, panel.xlabel));
    svg.append(make("text", {transform: `translate(13 ${(H - bottom + top) / 2}) rotate(-90)`, "text-anchor": "middle"}, panel.ylabel));
    if (panel.threshold) {
      const y = Y(panel.threshold[0]);
      svg.append(make("path", {class: "threshold", d: `M${left} ${y}H${W - right}`}));
      svg.append(make("text", {x: W - right, y: y - 5, "text-anchor": "end"}, panel.threshold[1]));
    }
    for (const line of panel.lines) {
      const xs = result[line.x], ys = result[line.y];
      const points = [];
      for (let i = 0; i < xs.length; i++)
        if (Number.isFinite(ys[i]) && (!panel.logy || ys[i] > 0)) points.push([X(xs[i]).toFixed(1), Y(ys[i]).toFixed(1)]);
      const group = make("g", {class: "role-" + line.role, "clip-path": `url(#${id})`});
      if (points.length > 1) group.append(make("polyline", {points: points.map(p => p.join(",")).join(" "), "stroke-dasharray": line.dash || "none"}));
      if (line.dots) for (const [x, y] of points) group.append(make("circle", {cx: x, cy: y, r: points.length > 1 ? 2.6 : 5}));
      svg.append(group);
    }
  }
  const values = () => Object.fromEntries(inputs.map(i => [i.name, +i.value]));
  function update() {
    const result = compute(values());
    for (const input of inputs) root.querySelector(`output[for="${input.id}"]`).value = input.value;
    say.textContent = result.say;
    root.querySelectorAll("svg").forEach((svg, i) => {
      draw(svg, spec[i], result);
      svg.setAttribute("aria-label", spec[i].ylabel + " against " + spec[i].xlabel + ". " + result.say);
    });
  }
  for (const input of inputs) input.addEventListener("input", update);
  root.compute = compute;
  update();
}
