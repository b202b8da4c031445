// Figures to touch. Each is a few numbers that a reader sets, what follows from them, and a picture with a sentence.
// Nothing but the last part knows of a page: samsbook/touch.py draws the still pictures with the same lines, and the
// tests compare `follows` with the library.
// Of Okabe and Ito, as in samslib.plotting; book.css has those of dark pages.
const INK = ["#0072B2", "#D55E00", "#009E73", "#CC79A7"];
const DASHES = ["", "8 4", "2 3", ""];
const WIDTH = 400, HEIGHT = 264;

// --- how numbers are written and axes divided -----------------------------------------------------------------

const write = (value, digits = 2) => value.toFixed(digits).replace(/^-(?=[\d.]*[1-9])/, "\u2212").replace(/^-/, "");
const signed = (value, digits = 2) => (Number(value.toFixed(digits)) > 0 ? "+" : "") + write(value, digits);
const plain = (value) => String(Number(value.toPrecision(2))).replace("-", "\u2212");
const percent = (value) =>
  value > 0 && value < 5e-4 ? "less than 0.1%" : `${(100 * value).toFixed(value < 0.095 ? 1 : 0)}%`;
const range = (low, high, count) => Array.from({ length: count }, (_, i) => low + ((high - low) * i) / (count - 1));
const powers = (low, high, count) => range(Math.log10(low), Math.log10(high), count).map((log) => 10 ** log);

function ticks([low, high]) {
  const unit = 10 ** Math.floor(Math.log10((high - low) / 6));
  const step = unit * [1, 2, 5, 10].find((times) => times * unit >= (high - low) / 6);
  const first = Math.ceil(low / step - 1e-9), count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, i) => Number(((first + i) * step).toPrecision(6)));
}

// --- a picture, as text -----------------------------------------------------------------------------------------

class Plot {
  // Axes over `x` and `y` (lowest and highest), a `log` one below; `names` puts words for numbers there.
  constructor(x, y, xLabel, yLabel, { log = false, names = null, left = 46, width = WIDTH - 66 } = {}) {
    Object.assign(this, { log, left, width, top: 44, height: 172, parts: [], entries: 0 });
    this.x = log ? x.map(Math.log10) : x;
    this.y = y;
    const bottom = this.top + this.height;
    const marks = names ?? (log ? ticks(this.x).filter(Number.isInteger).map((t) => [10 ** t, plain(10 ** t)])
      : ticks(x).map((t) => [t, plain(t)]));
    for (const tick of ticks(y)) {
      this.draw(`<path class="grid" stroke="#ddd" d="M${left} ${this.v(tick)}h${width}"/>`);
      this.text(left - 6, this.v(tick) + 4, plain(tick), "end");
    }
    for (const [at, words] of marks) this.text(this.u(at), bottom + 17, words, "middle");
    this.draw(`<path class="frame" stroke="#444" fill="none" d="M${left} ${this.top}V${bottom}h${width}"/>`);
    this.text(left + width / 2, bottom + 37, xLabel, "middle");
    this.text(Math.max(left - 40, 2), 14, yLabel);
  }
  u(x) {
    const [low, high] = this.x;
    return Number((this.left + (this.width * ((this.log ? Math.log10(x) : x) - low)) / (high - low)).toFixed(1));
  }
  v(y) {
    return Number((this.top + this.height * (1 - (y - this.y[0]) / (this.y[1] - this.y[0]))).toFixed(1));
  }
  draw(part) {
    this.parts.push(part);
    return this;
  }
  text(x, y, words, anchor = "start") {
    return this.draw(`<text class="words" fill="#222" x="${x}" y="${y}" text-anchor="${anchor}">${words}</text>`);
  }
  stroke(kind) {
    return `class="ink${kind}" stroke="${INK[kind]}" stroke-width="2.5" stroke-dasharray="${DASHES[kind]}" fill="none"`;
  }
  fill(kind) {
    return `class="fill${kind}" fill="${INK[kind]}"`;
  }
  line(points, kind) {
    const corners = points.map(([x, y]) => `${this.u(x)} ${this.v(y)}`);
    return this.draw(`<path ${this.stroke(kind)} d="M${corners.join("L")}"/>`);
  }
  legend(words, kind, filled = false) {
    const x = this.left + 2 + this.entries, y = 31;
    this.entries += 40 + 6.6 * words.length;
    this.draw(filled ? `<rect ${this.fill(kind)} x="${x + 8}" y="${y - 9}" width="12" height="10"/>`
      : `<path ${this.stroke(kind)} d="M${x} ${y - 4}h24"/>`);
    return this.text(x + 29, y, words);
  }
  bar(x, y, half, kind = 0) {
    const [low, high] = [Math.min(y, 0), Math.max(y, 0)], left = this.u(x - half);
    const size = `width="${(this.u(x + half) - left).toFixed(1)}" height="${(this.v(low) - this.v(high)).toFixed(1)}"`;
    return this.draw(`<rect ${this.fill(kind)} x="${left}" y="${this.v(high)}" ${size}/>`);
  }
  point(x, y, kind) {
    return this.draw(`<circle ${this.fill(kind)} cx="${this.u(x)}" cy="${this.v(y)}" r="6"/>`);
  }
  upright(x) {
    const path = `d="M${this.u(x)} ${this.top}v${this.height}"`;
    return this.draw(`<path class="frame" stroke="#444" stroke-dasharray="4 4" ${path}/>`);
  }
  arrow([x, y], [dx, dy], kind) {
    const [a, b, c, d] = [this.u(x), this.v(y), this.u(x + dx), this.v(y + dy)], turn = Math.atan2(d - b, c - a);
    const side = (s) => `${(c - 10 * Math.cos(turn + s)).toFixed(1)} ${(d - 10 * Math.sin(turn + s)).toFixed(1)}`;
    const head = `<path ${this.fill(kind)} d="M${c} ${d}L${side(0.4)}L${side(-0.4)}z"/>`;
    this.draw(`<path ${this.stroke(kind)} d="M${a} ${b}L${c} ${d}"/>`);
    return Math.hypot(c - a, d - b) > 10 ? this.draw(head) : this;
  }
}

// --- the mathematics --------------------------------------------------------------------------------------------

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

function binomial(n, p) { // probabilities of 0 to n, each from the one before
  const log = [n * Math.log1p(-p)];
  for (let a = 0; a < n; a++) log.push(log[a] + Math.log(((n - a) / (a + 1)) * (p / (1 - p))));
  return log.map(Math.exp);
}

function shares([x, y]) { // of three genes, by a linear decoder with a softmax
  const weights = [x, 0.4 + y, 0.8 - x - y].map(Math.exp), total = weights.reduce((a, b) => a + b);
  return weights.map((weight) => weight / total);
}

function readout(mean, concentration, library) { // E log2(1 + 10,000 x / l) of a negative binomial x
  const ratio = mean / (mean + concentration);
  let p = (1 - ratio) ** concentration, sum = 0, seen = p;
  for (let k = 1; seen < 1 - 1e-10 || k < mean; k++) {
    p *= ((k - 1 + concentration) / k) * ratio;
    seen += p;
    sum += p * Math.log2(1 + (1e4 * k) / library);
    if (p < 1e-15 && k > mean) break;
  }
  return sum;
}

// Mean straight-through gradient of -(seen - effect M)^2: the integral over the relaxed logit s, by Simpson's rule on
// either side of 0, above which the mask is on.
function through(phi, temperature, seen, effect) {
  const bell = (x) => 1 / (2 + 2 * Math.cosh(x)), grid = range(0, 32, 641);
  const side = (sign) => grid.reduce((sum, s, i) =>
    sum + (i === 0 ? 1 : i % 2 ? 4 : 2) * (0.05 / 3) * bell(s) * bell(temperature * sign * s - phi), 0);
  return 2 * effect * (seen * side(-1) + (seen - effect) * side(1));
}

// E log mean of P weights = integral of [exp(-t) - (E exp(-t w / P))^P] / t dt, here with t = P exp(v). The weight of
// a draw e of N(0, 1) is w = N(z; 0, 1) / N(z; offset, width), where z = offset + width e.
function bounds(offset, width, particles) {
  const nodes = range(-9, 9, 181).map((e) => [0.1 * Math.exp(-e * e / 2) / Math.sqrt(2 * Math.PI),
    width * Math.exp((e * e - (offset + width * e) ** 2) / 2)]);
  const mean = (t) => nodes.reduce((sum, [p, w]) => sum + p * Math.exp(-w * t), 0);
  const grid = range(-45, 105, 751).map((v) => [Math.exp(v), mean(Math.exp(v))]);
  return particles.map((P) => 0.2 * grid.reduce((sum, [t, phi]) => sum + Math.exp(-P * t) - phi ** P, 0));
}

const logistic = (dose, slope, bias) => sigmoid(slope * dose + bias) - sigmoid(bias);
const hill = (u, half, slope) => (u > 0 ? 1 / (1 + (half / u) ** slope) : 0);
const share = (g, u) => g(u) / g(1); // of the value at the largest dose
const CURVES = {
  "SAMS-VAE, logsigmoid (Hill)": (u, a, b) => share((v) => hill(v, 0.3 * Math.exp(a), 1.5 * Math.exp(b / 2)), u),
  "SAMS-VAE, sigmoid": (u, a, b) => share((v) => logistic(v, Math.exp(1.5 + 0.7 * a), 2 * b - 1), u),
  "CPA, logsigm": (u, a, b) => logistic(Math.log1p(u), Math.exp(a), b),
  "CPA, sigm": (u, a, b) => logistic(u, Math.exp(a), b),
};

// Effects of a recorded screen by target, written beside this script: [gene, of the model, in held-out cells].
const SCREEN = typeof require === "function" ? require("./touch-screen.js") : globalThis.TOUCH_SCREEN ?? {};

// --- the figures --------------------------------------------------------------------------------------------------

// A control: what it is called, from where to where, in which steps, where it starts, and how its value is written. One
// with `log` slides over the decimal logarithm. One with `choices` is a list.
const FIGURES = {
  "active-axes": {
    controls: {
      K: { label: "latent axes K", low: 2, high: 200, step: 1, start: 100, shown: plain },
      p: { label: "mask prior α", low: -3, high: -0.3, step: 0.05, start: -2, log: true, shown: plain },
    },
    follows: ({ K, p }) => ({ mean: K * p, nothing: (1 - p) ** K, shared: 1 - (1 - p * p) ** K, law: binomial(K, p) }),
    draw: ({ K, p }, { mean, nothing, shared, law }) => {
      const most = Math.min(K, Math.max(6, Math.ceil(mean + 4 * Math.sqrt(mean))));
      const plot = new Plot([-0.6, most + 0.6], [0, Math.max(...law)], "active axes of a perturbation", "probability");
      law.slice(0, most + 1).forEach((share, a) => plot.bar(a, share, 0.4));
      return [plot, `With ${K} axes, each switched on with probability ${plain(p)}, the expected number of axes that a
        perturbation touches is ${plain(mean)}. It touches none with probability ${percent(nothing)}, and two
        perturbations share at least one with probability ${percent(shared)}.`];
    },
  },
  additivity: {
    controls: {
      A: { label: "size of A", low: 0, high: 2, step: 0.1, start: 1.5, shown: (v) => write(v, 1) },
      B: { label: "size of B", low: 0, high: 2, step: 0.1, start: 1.2, shown: (v) => write(v, 1) },
      angle: { label: "angle between them", low: 0, high: 180, step: 5, start: 90, shown: (v) => `${v}°` },
    },
    follows: ({ A, B, angle }) => {
      const turn = (angle * Math.PI) / 180, a = [A, 0], b = [B * Math.cos(turn), B * Math.sin(turn)];
      const both = [a[0] + b[0], b[1]], rest = shares([0, 0]);
      const change = (z) => shares(z).map((share, gene) => share - rest[gene]);
      const sum = change(a).map((value, gene) => value + change(b)[gene]), together = change(both);
      const size = Math.hypot(...together), apart = Math.hypot(...together.map((value, gene) => value - sum[gene]));
      return { a, b, both, sum, together, departure: size > 1e-9 ? apart / size : 0 };
    },
    draw: (_, { a, b, both, sum, together, departure }) => {
      const plane = new Plot([-2.3, 4.3], [-1.5, 4.81], "axis 1 of z", "axis 2 of z", { width: 180, left: 34 });
      plane.arrow([0, 0], a, 0).arrow([0, 0], b, 1).arrow(a, b, 1).arrow(b, a, 0).point(...both, 2);
      plane.legend("A", 0).legend("B", 1);
      const names = [0, 1, 2].map((gene) => [gene, `gene ${gene + 1}`]);
      const right = { names, left: 262, width: 132 };
      const genes = new Plot([-0.5, 2.5], [-100, 100], "", "change of share (points)", right);
      sum.forEach((value, gene) => genes.bar(gene - 0.2, 100 * value, 0.17, 3));
      together.forEach((value, gene) => genes.bar(gene + 0.2, 100 * value, 0.17, 2));
      genes.legend("sum", 3, true).legend("both", 2, true);
      const apart = sum.map((value, i) => Math.abs(value - together[i])), gene = apart.indexOf(Math.max(...apart));
      return [{ parts: [...plane.parts, ...genes.parts] }, `In latent space both together are the two arrows, one after
        the other: exactly the sum. Gene ${gene + 1} changes its share by ${signed(100 * together[gene], 0)} points under
        both, where the single changes add up to ${signed(100 * sum[gene], 0)}.
        The departure from additivity over the three genes is ${write(departure)}.`];
    },
  },
  depth: {
    controls: {
      depth: { label: "counts of a cell", low: 1.5, high: 4, step: 0.05, start: 2.3, log: true, shown: plain },
      level: { label: "gene, counts in 10,000", low: -0.5, high: 2, step: 0.05, start: 1, log: true, shown: plain },
      fold: { label: "true change, log2", low: -3, high: 3, step: 0.25, start: 1, shown: (v) => signed(v) },
      theta: { label: "concentration θ", low: -0.3, high: 2, step: 0.1, start: 0.5, log: true, shown: plain },
    },
    follows: ({ depth, level, fold, theta }) => {
      const treated = level * 2 ** fold, read = (of, l) => readout(l * 1e-4 * of, theta, l);
      const effect = (l) => read(treated, l) - read(level, l), curve = powers(30, 1e4, 40).map((l) => [l, effect(l)]);
      return { effect: effect(depth), sure: Math.log2((1 + treated) / (1 + level)), curve };
    },
    draw: ({ depth, level, fold }, { effect, sure, curve }) => {
      const values = [0, 1.1 * sure, ...curve.map(([, value]) => value)];
      const y = fold ? [Math.min(...values), Math.max(...values)] : [-1, 1];
      const plot = new Plot([30, 1e4], y, "counts of a cell (library size)", "effect on the readout (log2)", { log: true });
      plot.line([[30, sure], [1e4, sure]], 1).line(curve, 0).point(depth, effect, 0);
      plot.legend("as read", 0).legend("without noise", 1);
      return [plot, `A gene with ${plain(level)} in 10,000 counts, whose share changes by ${signed(fold)} on the log2
        scale, reads as an effect of ${signed(effect)} in cells of ${plain(depth)} counts and of
        ${signed(curve.at(-1)[1])} in cells of 10,000.
        Without the noise of counting it would read ${signed(sure)}.`];
    },
  },
  "straight-through": {
    controls: {
      phi: { label: "mask logit φ", low: -5, high: 5, step: 0.25, start: 1, shown: (v) => signed(v) },
      temperature: { label: "temperature κ", low: -1, high: 0.5, step: 0.1, start: 0, log: true, shown: plain },
      seen: { label: "shift seen, x", low: 0, high: 3, step: 0.1, start: 1.2, shown: (v) => write(v, 1) },
      effect: { label: "embedding e", low: 0, high: 3, step: 0.1, start: 2, shown: (v) => write(v, 1) },
    },
    follows: ({ phi, temperature, seen, effect }) => {
      const exact = (at) => sigmoid(at) * sigmoid(-at) * (seen ** 2 - (seen - effect) ** 2);
      const biased = (at) => through(at, temperature, seen, effect), grid = range(-5, 5, 41);
      const curves = [exact, biased].map((gradient) => grid.map((at) => [at, gradient(at)]));
      return { exact: exact(phi), biased: biased(phi), curves };
    },
    draw: ({ phi }, { exact, biased, curves }) => {
      const values = curves.flat().map(([, value]) => value), y = [Math.min(-0.1, ...values), Math.max(0.1, ...values)];
      const plot = new Plot([-5, 5], y, "mask logit φ", "gradient of the objective in φ");
      curves.forEach((curve, kind) => plot.line(curve, kind));
      plot.upright(phi).point(phi, exact, 0).point(phi, biased, 1).legend("exact", 0).legend("straight-through", 1);
      const way = (value) => (Math.abs(value) < 0.005 ? "stay" : value > 0 ? "switch on" : "switch off");
      const verdict = way(exact) === way(biased) ? "They agree on the direction." : "They disagree on the direction.";
      return [plot, `The mask is on with probability ${percent(sigmoid(phi))}. The exact gradient is ${signed(exact)}:
        ${way(exact)}. The straight-through gradient is ${signed(biased)}: ${way(biased)}. ${verdict}`];
    },
  },
  particles: {
    controls: {
      P: { label: "particles P", low: 0, high: 3, step: 0.05, start: 1, log: true, whole: true, shown: String },
      offset: { label: "how far off q is centred", low: 0, high: 2, step: 0.1, start: 1, shown: (v) => write(v, 1) },
      width: { label: "width of q", low: 0.5, high: 1.6, step: 0.05, start: 0.7, shown: (v) => write(v) },
    },
    follows: ({ P, offset, width }) => {
      const numbers = powers(1, 1000, 25), [bound, elbo, ...curve] = bounds(offset, width, [P, 1, ...numbers]);
      return { bound, elbo, curve: numbers.map((number, i) => [number, curve[i]]) };
    },
    draw: ({ P }, { bound, elbo, curve }) => {
      const y = [Math.min(1.05 * elbo, -0.1), 0];
      const plot = new Plot([1, 1000], y, "particles P", "bound minus log p(x) (nats)", { log: true });
      plot.line([[1, elbo], [1000, elbo]], 1).line(curve, 0).point(P, bound, 0);
      plot.legend("importance-weighted", 0).legend("ELBO", 1);
      const close = (value) => (value > -0.005 ? "within 0.01 nats of" : `${write(-value)} nats below`);
      return [plot, `With ${P} ${P === 1 ? "particle" : "particles"} the bound is ${close(bound)} the log evidence;
        the ELBO, with one, is ${close(elbo)} it.`];
    },
  },
  doses: {
    controls: {
      kind: { label: "curve", choices: Object.keys(CURVES), start: "SAMS-VAE, logsigmoid (Hill)" },
      dose: { label: "dose (largest: 1)", low: 0, high: 1.5, step: 0.05, start: 0.25, shown: (v) => write(v) },
      a: { label: "a₁ (CPA: log of the slope)", low: -2, high: 2, step: 0.1, start: 0, shown: (v) => signed(v, 1) },
      b: { label: "a₂ (CPA: bias)", low: -2, high: 2, step: 0.1, start: 0, shown: (v) => signed(v, 1) },
    },
    follows: ({ kind, dose, a, b }) => {
      const value = (u) => CURVES[kind](u, a, b), largest = value(1);
      let half = 0; // where half of that is reached, by halving steps
      for (let step = 0.5; step > 1e-12; step /= 2) if (value(half + step) < largest / 2) half += step;
      return { value: value(dose), largest, half, curve: range(0, 1.5, 76).map((u) => [u, value(u)]) };
    },
    draw: ({ kind, dose }, { value, largest, half, curve }) => {
      const plot = new Plot([0, 1.5], [0, Math.max(1.5, curve.at(-1)[1])], "dose (largest in training: 1)", "f(dose)");
      plot.upright(1).line([[0, 0], [1.5, 1.5]], 1).line(curve, 0).point(dose, value, 0);
      plot.legend(kind.replace(" (Hill)", ""), 0).legend("linear", 1);
      const scale = `The height at the largest, ${write(largest)}, means nothing alone: the embedding makes up for it.`;
      return [plot, `At a dose of ${write(dose)} the curve is at ${percent(value / largest)} of its height at the largest
        dose; a straight line is at ${percent(dose)}. Half the height is reached at a dose of ${write(half)}.
        ${kind.startsWith("CPA") ? scale : ""}`];
    },
  },
  screen: {
    controls: { target: { label: "perturbed target", choices: Object.keys(SCREEN), start: "HS2" } },
    follows: ({ target }) => ({ rows: SCREEN[target] }),
    draw: ({ target }, { rows }) => {
      const all = rows.flatMap(([, model, cells]) => [model, cells]), low = Math.min(0, ...all), high = Math.max(0, ...all);
      const names = rows.map(([gene], i) => [i, gene]);
      const plot = new Plot([-0.6, rows.length - 0.4], [low, high], "genes that change most", "effect (log2)", { names });
      rows.forEach(([, model, cells], i) => plot.bar(i - 0.2, model, 0.17, 0).bar(i + 0.2, cells, 0.17, 1));
      plot.legend("SAMS-VAE", 0, true).legend("held-out cells", 1, true);
      const [gene, model, cells] = rows[0];
      return [plot, `With ${target} perturbed, ${gene} changes most: by ${signed(cells)} in held-out cells and by
        ${signed(model)} in the model, on the log2 scale of the readout.`];
    },
  },
};

// The values of a figure's controls as its mathematics takes them.
const values = (controls, set = {}) => Object.fromEntries(Object.entries(controls).map(([key, control]) => {
  const value = set[key] ?? control.start, number = control.log ? 10 ** value : value;
  return [key, control.whole ? Math.round(number) : number];
}));

function still(name, set) { // the picture as SVG, and the sentence
  const { controls, follows, draw } = FIGURES[name], chosen = values(controls, set);
  const [plot, said] = draw(chosen, follows(chosen));
  const size = `width="${WIDTH}" height="${HEIGHT}" viewBox="0 0 ${WIDTH} ${HEIGHT}"`;
  const open = `<svg xmlns="http://www.w3.org/2000/svg" ${size} font-family="sans-serif" font-size="13">`;
  return { svg: `${open}${plot.parts.join("\n")}</svg>`, said: said.replace(/\s+/g, " ").trim() };
}

// --- in a page ----------------------------------------------------------------------------------------------------

function liven(figure) { // puts the controls below the picture, and the live picture in the place of the still one
  const name = figure.id.replace("touch-", ""), { controls } = FIGURES[name], set = {};
  const [image, box, said] = [figure.querySelector("img"), document.createElement("div"), document.createElement("p")];
  const frame = document.createElement("div");
  Object.assign(frame, { className: "touch-picture", role: "img", ariaLabel: image.alt });
  const redraw = () => {
    const made = still(name, set);
    frame.innerHTML = made.svg;
    said.textContent = made.said;
  };
  for (const [key, control] of Object.entries(controls)) {
    const id = `${figure.id}-${key}`, row = document.createElement("div");
    const options = control.choices?.map((choice) => `<option${choice === control.start ? " selected" : ""}>${choice}</option>`).join("");
    const input = options ? `<select id="${id}">${options}</select>`
      : `<input type="range" id="${id}" min="${control.low}" max="${control.high}" step="${control.step}"
          value="${control.start}">`;
    row.innerHTML = `<label for="${id}">${control.label}</label>${input}<output for="${id}"></output>`;
    const [, entry, output] = row.children;
    const changed = () => {
      set[key] = options ? entry.value : Number(entry.value);
      if (!options) output.value = entry.ariaValueText = control.shown(values(controls, set)[key]);
      redraw();
    };
    entry.addEventListener("input", changed);
    changed();
    box.append(row);
  }
  box.className = "touch-controls";
  said.className = "touch-said";
  said.ariaLive = "polite";
  image.replaceWith(frame);
  frame.after(box, said);
}

if (typeof module === "object") module.exports = { FIGURES, values, still };
else document.addEventListener("DOMContentLoaded", () => document.querySelectorAll("figure.touch").forEach(liven));
