// The front page's network: f(x) = Σ a_j tanh(w_j x + b_j) + c, trained in the reader's page by gradient descent.
// No library, no request. `spikenbStart` (front-start.js) holds the data and ten starts, written by Python.

// The loss p Σ r², its gradient and its Hessian at θ = (a, w, b, c).
function spikenbNet({width: m, prefactor: p, x, y}) {
  const n = x.length, dim = 3 * m + 1;
  const h = new Float64Array(n * m), r = new Float64Array(n), grad = new Float64Array(dim);
  const hessian = new Float64Array(dim * dim), row = new Float64Array(dim);

  function forward(theta) {
    let loss = 0;
    for (let i = 0; i < n; i++) {
      let f = theta[3 * m];
      for (let j = 0; j < m; j++) {
        const t = Math.tanh(theta[m + j] * x[i] + theta[2 * m + j]);
        h[i * m + j] = t;
        f += theta[j] * t;
      }
      r[i] = f - y[i];
      loss += r[i] * r[i];
    }
    return p * loss;
  }

  // Returns L(θ) and moves θ by one step, in place; where the loss is not finite θ stays.
  function step(theta, eta) {
    const loss = forward(theta);
    if (!Number.isFinite(loss)) return loss;
    grad.fill(0);
    for (let i = 0; i < n; i++) {
      const s = 2 * p * r[i];
      for (let j = 0; j < m; j++) {
        const t = h[i * m + j], back = s * theta[j] * (1 - t * t);
        grad[j] += s * t;
        grad[m + j] += back * x[i];
        grad[2 * m + j] += back;
      }
      grad[3 * m] += s;
    }
    for (let k = 0; k < dim; k++) theta[k] -= eta * grad[k];
    return loss;
  }

  // λmax of the exact Hessian 2p(JᵀJ + Σ r ∇²f): Householder's tridiagonal form, then bisection.
  function sharpness(theta) {
    if (!Number.isFinite(forward(theta))) return NaN;
    const H = hessian.fill(0), add = (k, l, v) => { H[k * dim + l] += v; };  // the lower triangle
    for (let i = 0; i < n; i++) {
      row[3 * m] = 1;
      for (let j = 0; j < m; j++) {
        const t = h[i * m + j], d1 = 1 - t * t, d2 = -2 * t * d1 * theta[j] * r[i];
        row[j] = t;
        row[m + j] = theta[j] * d1 * x[i];
        row[2 * m + j] = theta[j] * d1;
        add(m + j, m + j, d2 * x[i] * x[i]);
        add(2 * m + j, m + j, d2 * x[i]);
        add(2 * m + j, 2 * m + j, d2);
        add(m + j, j, d1 * x[i] * r[i]);
        add(2 * m + j, j, d1 * r[i]);
      }
      for (let k = 0; k < dim; k++) for (let l = 0; l <= k; l++) H[k * dim + l] += row[k] * row[l];
    }
    return 2 * p * spikenbLargest(H, dim);
  }

  return {dim, forward, step, sharpness};
}

// The largest eigenvalue of a symmetric matrix, d × d row by row, from its lower triangle, which is overwritten.
function spikenbLargest(A, d) {
  const v = new Float64Array(d), q = new Float64Array(d), off = new Float64Array(d);
  for (let k = 0; k < d - 2; k++) {
    let norm = 0;
    for (let i = k + 1; i < d; i++) norm += A[i * d + k] ** 2;
    norm = Math.sqrt(norm);
    if (norm === 0) continue;
    const first = A[(k + 1) * d + k], alpha = first > 0 ? -norm : norm, scale = 1 / Math.sqrt(2 * norm * (norm + Math.abs(first)));
    for (let i = k + 1; i < d; i++) v[i] = (A[i * d + k] - (i === k + 1 ? alpha : 0)) * Math.SQRT2 * scale;
    let dot = 0;
    q.fill(0);
    for (let i = k + 1; i < d; i++) {
      for (let j = k + 1; j < i; j++) { q[i] += A[i * d + j] * v[j]; q[j] += A[i * d + j] * v[i]; }
      q[i] += A[i * d + i] * v[i];
    }
    for (let i = k + 1; i < d; i++) dot += q[i] * v[i];
    for (let i = k + 1; i < d; i++) q[i] -= dot / 2 * v[i];
    for (let i = k + 1; i < d; i++) for (let j = k + 1; j <= i; j++) A[i * d + j] -= v[i] * q[j] + q[i] * v[j];
    off[k + 1] = alpha;
  }
  off[d - 1] = A[(d - 1) * d + d - 2];
  let high = -Infinity, low = -Infinity;
  for (let i = 0; i < d; i++) {  // Gershgorin's circles from above, the diagonal from below
    high = Math.max(high, A[i * d + i] + Math.abs(off[i]) + (i + 1 < d ? Math.abs(off[i + 1]) : 0));
    low = Math.max(low, A[i * d + i]);
  }
  for (let turn = 0; turn < 60 && high - low > 1e-13 * Math.abs(high); turn++) {
    const middle = (low + high) / 2;
    let pivot = 1, above = false;  // an eigenvalue above the middle: a positive pivot of A - middle
    for (let i = 0; i < d && !above; i++) {
      pivot = A[i * d + i] - middle - (i ? off[i] * off[i] / pivot : 0);
      if (pivot === 0) pivot = -1e-300;
      above = pivot > 0;
    }
    if (above) low = middle; else high = middle;
  }
  return (low + high) / 2;
}

// Finds spikes as the losses come. A rise to twice the smallest loss of the last 300 epochs begins an event; it is a
// spike if its peak reaches three times that loss before the loss has come down to a third of the peak, or has halved
// the way back. `event` is null between events.
function spikenbWatch() {
  const recent = new Float64Array(300), spikes = [];
  const watch = {spikes, event: null, see};
  let epoch = 0, smallest = Infinity;
  function see(loss) {
    const e = watch.event;
    if (e) {
      if (loss > e.peak) { e.peak = loss; e.epoch = epoch; }
      const back = loss <= Math.max(1.5 * e.before, e.peak / 3);
      if (back || epoch - e.epoch > 300) {
        if (back && e.peak >= 3 * e.before) spikes.push({epoch: e.epoch, peak: e.peak, ratio: e.peak / e.before});
        if (back) recent.fill(loss), smallest = loss;
        watch.event = null;
      }
    } else if (epoch > 500 && loss > 2 * smallest) {
      watch.event = {before: smallest, peak: loss, epoch};
    }
    const gone = recent[epoch % 300];
    recent[epoch % 300] = loss;
    if (loss <= smallest) smallest = loss;
    else if (gone <= smallest) {
      smallest = Infinity;
      for (let i = 0; i <= Math.min(epoch, 299); i++) smallest = Math.min(smallest, recent[i]);
    }
    epoch++;
  }
  return watch;
}

// What a run has shown, in at most `most` columns of the same number of epochs, which double when they are full: the
// smallest and largest loss, λmax and 2/η. So a run may be as long as it likes, and no spike is lost.
function spikenbHistory(most = 600) {
  const columns = [], history = {columns, each: 10, loss, sharp};
  function at(epoch) {
    if (Math.floor(epoch / history.each) >= most) {
      history.each *= 2;
      for (let k = 0; 2 * k < columns.length; k++) {
        const a = columns[2 * k], b = columns[2 * k + 1];
        columns[k] = b ? {low: Math.min(a.low, b.low), high: Math.max(a.high, b.high), falls: a.high > b.high, lam: b.lam ?? a.lam, edge: b.edge ?? a.edge} : a;
      }
      columns.length = Math.ceil(columns.length / 2);
    }
    const k = Math.floor(epoch / history.each);
    return columns[k] ??= {low: Infinity, high: -Infinity, falls: true};
  }
  function loss(epoch, value) {
    const c = at(epoch);
    if (value > c.high) { c.high = value; c.falls = c.low === Infinity; }
    if (value < c.low) { c.low = value; }
  }
  function sharp(epoch, lam, edge) { Object.assign(at(epoch), {lam, edge}); }
  return history;
}

// The page's figure: `root` is the block in front.html.
function spikenbFront(root, start) {
  const PACE = 2400, SLOW = 60, LEG = 30000;  // epochs a second, the same at the first spike, epochs before it pauses
  const LOOK = 25, SHOW = 45;  // epochs between two looks at λmax, milliseconds between two pictures
  const net = spikenbNet(start), m = start.width;
  const find = name => root.querySelector(`[name=${name}]`), show = name => root.querySelector(`.front-${name}`);
  const go = find("go"), again = find("again"), seed = find("seed"), rate = find("eta"), slowly = find("slowly");
  const say = show("say"), said = show("said");
  const ends = [start.x[0], start.x[start.x.length - 1]];
  let run, playing = false, visible = true, frame = 0, last = 0, shown = 0, owed = 0;

  const number = v => v === 0 ? "0" : v >= 1e5 || v < 1e-3 ? v.toExponential(0).replace("e+", "e") : String(+v.toPrecision(3));
  const epochs = v => v.toLocaleString("en");

  // ---- the axes: each panel is drawn once, its range and lines are set at each frame ----
  const W = 400, H = 236, left = 50, right = 12, top = 28, bottom = 40;
  const make = (parent, tag, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  };
  function panel(name, xlabel, ylabel) {
    const svg = show(name);
    svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
    const clip = make(make(svg, "clipPath", {id: "front-clip-" + name}), "rect", {x: left, y: top - 4, width: W - left - right + 4, height: H - top - bottom + 8});
    clip.ownerSVGElement.setAttribute("focusable", "false");
    make(svg, "path", {class: "axis", d: `M${left} ${top}V${H - bottom}H${W - right}`});
    make(svg, "text", {x: (left + W - right) / 2, y: H - 5, "text-anchor": "middle"}, xlabel);
    make(svg, "text", {x: 4, y: 12}, ylabel);
    const ticks = make(svg, "g", {}), inner = make(svg, "g", {"clip-path": `url(#front-clip-${name})`});
    let drawn = "";
    const axes = {svg, inner, X: null, Y: null, set};
    function set(xr, yr, xticks, yticks, log) {
      axes.X = v => left + (W - left - right) * (v - xr[0]) / (xr[1] - xr[0]);
      const [a, b] = log ? yr.map(Math.log10) : yr;
      axes.Y = v => H - bottom - (H - top - bottom) * Math.min(1.4, Math.max(-0.4, ((log ? Math.log10(v) : v) - a) / (b - a)));
      const key = [xr, yr, xticks, yticks].join();
      if (key === drawn) return false;
      drawn = key;
      ticks.replaceChildren();
      for (const v of xticks) make(ticks, "text", {x: axes.X(v), y: H - bottom + 16, "text-anchor": "middle"}, Math.abs(v) >= 1e4 ? v / 1000 + "k" : String(v).replace("-", "−"));
      for (const v of yticks) make(ticks, "text", {x: left - 6, y: axes.Y(v) + 4, "text-anchor": "end"}, log ? number(v) : String(v).replace("-", "−"));
      return true;
    }
    return axes;
  }
  const nice = v => { const unit = 10 ** Math.floor(Math.log10(v)); return unit * [1, 2, 2.5, 5, 10].find(k => k * unit >= v * 0.999); };
  const steps = (low, high, step) => Array.from({length: Math.floor((high - low) / step + 1e-6) + 1}, (_, k) => +(low + k * step).toPrecision(6));
  const points = list => list.map(([x, y]) => x.toFixed(1) + "," + y.toFixed(1)).join(" ");

  const losses = panel("loss", "epoch", "loss (log scale)"), lams = panel("sharpness", "epoch", "λmax, and 2/η (dashed)"), fits = panel("fit", "x", "the fit, and the data (dots)");
  const line = {loss: make(losses.inner, "polyline", {class: "ink"}), lam: make(lams.inner, "polyline", {class: "sharp"}), edge: make(lams.inner, "polyline", {class: "edge"}), fit: make(fits.inner, "polyline", {class: "ink"})};
  const peaks = make(losses.inner, "g", {class: "peaks"}), edgeName = make(lams.svg, "text", {"text-anchor": "end"});
  fits.set([-3, 3], [-3, 3], [-2, 0, 2], [-2, 0, 2]);
  const dots = make(fits.inner, "g", {class: "data"});
  start.x.forEach((x, i) => make(dots, "circle", {cx: fits.X(x), cy: fits.Y(start.y[i]), r: 2.6}));

  function draw() {
    const {columns, each} = run.history, end = Math.max(2000, nice(run.epoch)), xticks = steps(0, end, nice(end / 5));
    const seen = columns.filter(c => c.high >= c.low), high = Math.max(...seen.map(c => c.high)), low = Math.min(...seen.map(c => c.low));
    const decades = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high) + 1e-9)];
    const every = Math.ceil((decades[1] - decades[0]) / 5);
    losses.set([0, end], decades.map(d => 10 ** d), xticks, steps(decades[0], decades[1], every).map(d => 10 ** d), true);
    const now = run.epoch / each, middle = k => losses.X(Math.min((k + 0.5) * each, run.epoch));
    line.loss.setAttribute("points", points(columns.flatMap((c, k) => {
      if (!(c.high >= c.low)) return [];
      const pair = [[middle(k), losses.Y(c.high)], [middle(k), losses.Y(c.low)]];
      return c.falls ? pair : pair.reverse();
    })));
    peaks.replaceChildren();
    for (const s of run.watch.spikes.slice(-60)) {
      const x = losses.X(s.epoch), y = losses.Y(s.peak) - 4;
      make(peaks, "path", {d: `M${x} ${y}l-4 -7h8z`});
    }
    const edges = columns.filter(c => c.edge), most = Math.max(...edges.map(c => Math.min(1.3 * c.edge, Math.max(1.2 * c.edge, 1.1 * c.lam))), 2.4 / run.eta);
    const ceiling = nice(most), lamTicks = steps(0, ceiling, nice(ceiling / 5));
    lams.set([0, end], [0, ceiling], xticks, lamTicks);
    const known = columns.map((c, k) => [k, c]).filter(([, c]) => c.edge);
    line.lam.setAttribute("points", points(known.map(([k, c]) => [middle(k), lams.Y(c.lam)])));
    const edge = lams.Y(2 / run.eta);
    line.edge.setAttribute("points", points([...known.map(([k, c]) => [middle(k), lams.Y(c.edge)]), [lams.X(run.epoch), edge], [W - right, edge]]));
    edgeName.textContent = "2/η = " + number(2 / run.eta);
    edgeName.setAttribute("x", W - right);
    edgeName.setAttribute("y", edge - 6);
    const curve = [];
    for (let k = 0; k <= 120; k++) {
      const x = ends[0] + (ends[1] - ends[0]) * k / 120;
      let f = run.theta[3 * m];
      for (let j = 0; j < m; j++) f += run.theta[j] * Math.tanh(run.theta[m + j] * x + run.theta[2 * m + j]);
      curve.push([fits.X(x), fits.Y(f)]);
    }
    line.fit.setAttribute("points", points(curve));
    said.textContent = `epoch ${epochs(run.epoch)} · loss ${number(run.loss)} · λmax ${run.lam.toFixed(1)} · spikes ${run.watch.spikes.length}`;
  }

  // ---- the run ----
  function tell(text) {
    say.textContent = text;
    losses.svg.setAttribute("aria-label", "Loss against epoch. " + text);
    lams.svg.setAttribute("aria-label", "Sharpness against epoch, with the threshold 2/η. " + text);
    fits.svg.setAttribute("aria-label", "The network's output and the data. " + text);
  }
  function restart() {
    run = {theta: Float64Array.from(start.starts[+seed.value]), eta: +rate.value, epoch: 0, loss: 0, lam: 0, crossed: 0, told: 0, until: LEG, over: false, watch: spikenbWatch(), history: spikenbHistory()};
    owed = 0;
    measure();
    tell(`Seed ${seed.value}: the loss falls and the sharpness climbs towards 2/η.`);
    draw();
  }
  function advance() {
    const at = run.epoch, loss = net.step(run.theta, run.eta);
    if (!Number.isFinite(loss) || loss > 1e9) {
      run.over = true;
      tell(`The loss has left all bounds at epoch ${epochs(at)}: η = ${run.eta} is too large here. Lower it and start again.`);
      return false;
    }
    run.loss = loss;
    run.watch.see(loss);
    run.history.loss(at, loss);
    run.epoch++;
    return true;
  }
  // One step with λmax before and after it: near the threshold the sharpness alternates, so it is averaged over both.
  function measure() {
    const before = net.sharpness(run.theta), at = run.epoch;
    if (!advance()) return;
    run.lam = (before + net.sharpness(run.theta)) / 2;
    run.history.sharp(at, run.lam, 2 / run.eta);
    const found = run.watch.spikes.length, edge = number(2 / run.eta);
    if (found > Math.abs(run.told)) {
      const s = run.watch.spikes[found - 1];
      run.told = found;
      tell(`Spike ${found}, at epoch ${epochs(s.epoch)}: the loss rose ${s.ratio.toFixed(0)}-fold and came back, and λmax is ${run.lam.toFixed(0)}, 2/η being ${edge}.`);
      run.crossed = 0;
    } else if (found && run.told > 0 && run.epoch - run.watch.spikes[found - 1].epoch > 2500 && Math.abs(run.lam * run.eta / 2 - 1) < 0.05) {
      run.told = -found;
      tell(`No spike for 2,500 epochs, and λmax stays at 2/η = ${edge}: the edge of stability. Move η and see it leave.`);
    } else if (run.crossed === 0 && run.lam > 2 / run.eta && !run.watch.event && run.epoch > 500) {
      run.crossed = run.epoch;
      if (!found) tell(`At epoch ${epochs(run.epoch)} λmax is over 2/η = ${edge}. The loss does not show it yet: watch.`);
    }
  }
  const inSlowMotion = () => {
    const e = run.watch.event, before = run.watch.spikes.at(-1);
    return slowly.checked && e && run.epoch - e.epoch < 60 && !(before && e.epoch - before.epoch < 600);
  };
  // A quarter of the pace from the crossing to the spike, and among spikes that follow one another.
  const pace = () => {
    const before = run.watch.spikes.at(-1);
    const busy = run.crossed && run.epoch - run.crossed < 1500 || before && run.epoch - before.epoch < 1000;
    return slowly.checked && busy ? PACE / 4 : PACE;
  };
  function tick(time) {
    const slow = inSlowMotion(), gone = Math.min(250, Math.max(0, time - last)), until = performance.now() + Math.max(10, gone / 2);
    frame = 0;
    last = time;
    owed = Math.min(owed + (slow ? SLOW : pace()) * gone / 1000, slow ? 8 : PACE / 4);
    while (owed >= 1 && !run.over && performance.now() < until && inSlowMotion() === slow) {
      if (slow || run.epoch % LOOK === 0) measure(); else advance();
      owed--;
    }
    if (inSlowMotion() !== slow) owed = 0;
    if (run.epoch >= run.until) {
      run.until = run.epoch + LEG;
      tell(`Paused after ${epochs(run.epoch)} epochs. Go on, move η, or take another seed.`);
      play(false);
      run.rests = true;
    }
    if (run.over) play(false);
    if (slow || !playing || time - shown >= SHOW) { draw(); shown = time; }
    schedule();
  }
  function schedule() {
    if (playing && visible && !frame) frame = requestAnimationFrame(tick);
  }
  function play(on) {
    playing = on;
    run.rests = false;
    last = performance.now();
    go.textContent = on ? "Pause" : run.epoch > 1 && !run.over ? "Go on" : "Start";
    schedule();
  }
  go.addEventListener("click", () => { if (run.over) restart(); play(!playing); });
  again.addEventListener("click", () => { restart(); play(true); });
  seed.addEventListener("change", () => { restart(); play(true); });
  rate.addEventListener("input", () => {
    run.eta = +rate.value;
    run.crossed = 0;
    run.told = Math.abs(run.told);
    root.querySelector("output").value = rate.value;
    rate.setAttribute("aria-valuetext", `${rate.value}, so that 2/η is ${number(2 / run.eta)}`);
    draw();
  });
  rate.addEventListener("change", () => {
    if (run.epoch < 2 || run.over) return;
    const edge = 2 / run.eta;
    tell(`2/η is now ${number(edge)}, and λmax, ${run.lam.toFixed(0)}, is ${run.lam > edge ? "above" : "below"} it.`);
    if (run.rests) play(true);
  });
  // It runs while the panel of λmax, which the text speaks of, is in sight.
  new IntersectionObserver(([entry]) => { visible = entry.isIntersecting; last = performance.now(); schedule(); }, {threshold: 0.25}).observe(lams.svg);
  root.hidden = false;
  root.nextElementSibling.hidden = true;  // the still picture, for readers without scripts and for print
  restart();
  play(!matchMedia("(prefers-reduced-motion: reduce)").matches);

  // for tests: the live run, and a run without the page
  root.run = () => run;
  root.train = (seed, eta, steps) => {
    const theta = Float64Array.from(start.starts[seed]), watch = spikenbWatch(), losses = [];
    for (let t = 0; t < steps; t++) losses.push(net.step(theta, eta)), watch.see(losses[t]);
    return {losses, theta: [...theta], spikes: watch.spikes, sharpness: net.sharpness(theta)};
  };
}
