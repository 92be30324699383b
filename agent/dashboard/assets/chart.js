// Curves of the last two minutes, as SVG. They are drawn by attributes and styled by the style sheet.

const SVG = 'http://www.w3.org/2000/svg';
export const SPAN = 120_000; // ms that a curve shows

const W = 600;
const H = 120;

function svg(name, attributes) {
  const e = document.createElementNS(SVG, name);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  return e;
}

// niceTop returns the least round number that is not below v: what the axis ends with.
export function niceTop(v, least) {
  const floor = Math.max(v, least);
  const ten = 10 ** Math.floor(Math.log10(floor));
  return [1, 2, 5, 10].map((m) => m * ten).find((top) => top >= floor * 0.9999);
}

// path draws [time, value] points; a gap of more than five seconds, or a null, is left open.
function path(points, now, top, closed) {
  let d = '';
  let pen = false;
  let last = 0;
  let first = 0;
  const x = (t) => (W - ((now - t) / SPAN) * W).toFixed(1);
  const y = (v) => (H - (Math.min(v, top) / top) * (H - 4)).toFixed(1);
  const finish = () => {
    if (pen && closed) d += `L${x(last)} ${H}L${x(first)} ${H}Z`;
    pen = false;
  };
  for (const [t, v] of points) {
    if (v === null || (pen && t - last > 5000)) finish();
    if (v === null) continue;
    if (!pen) first = t;
    d += `${pen ? 'L' : 'M'}${x(t)} ${y(v)}`;
    pen = true;
    last = t;
  }
  finish();
  return d;
}

// Chart is a figure with a title, a scale and one curve for each series.
export class Chart {
  constructor(title, format, least) {
    this.title = title;
    this.format = format;
    this.least = least;
    this.curves = new Map();
    this.element = document.createElement('figure');
    this.element.className = 'chart';
    const caption = document.createElement('figcaption');
    const name = document.createElement('span');
    name.className = 'chart-title';
    name.textContent = title;
    this.legend = document.createElement('span');
    this.legend.className = 'legend';
    caption.append(name, this.legend);
    this.top = document.createElement('span');
    this.top.className = 'axis';
    this.top.setAttribute('aria-hidden', 'true');
    this.svg = svg('svg', { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: 'none', role: 'img' });
    for (const share of [0, 0.5, 1]) {
      const y = (H - share * (H - 4)).toFixed(1);
      this.svg.append(svg('line', { class: 'grid', x1: 0, x2: W, y1: y, y2: y }));
    }
    const plot = document.createElement('div');
    plot.className = 'plot';
    const axis = document.createElement('div');
    axis.className = 'times';
    axis.setAttribute('aria-hidden', 'true');
    for (const text of ['2 min ago', '1 min', 'now']) {
      const s = document.createElement('span');
      s.textContent = text;
      axis.append(s);
    }
    plot.append(this.top, this.svg);
    this.element.append(caption, plot, axis);
  }

  // draw takes series of {key, name, look, points, area}; those with a name are in the legend, with their latest value.
  draw(series, now) {
    let most = 0;
    for (const s of series) for (const [, v] of s.points) if (v > most) most = v;
    const top = niceTop(most, this.least);
    this.top.textContent = this.format(top);
    const seen = new Set();
    const words = [];
    for (const s of series) {
      seen.add(s.key);
      let c = this.curves.get(s.key);
      if (!c) {
        c = { line: svg('path', { class: `line ${s.look}` }) };
        if (s.area) {
          c.area = svg('path', { class: `area ${s.look}` });
          this.svg.append(c.area);
        }
        this.svg.append(c.line);
        if (s.name) {
          c.word = document.createElement('span');
          c.word.className = `word ${s.look}`;
          this.legend.append(c.word);
        }
        this.curves.set(s.key, c);
      }
      c.line.setAttribute('d', path(s.points, now, top, false));
      if (c.area) c.area.setAttribute('d', path(s.points, now, top, true));
      if (c.word) {
        const value = s.points.at(-1)?.[1];
        c.word.textContent = `${s.name} ${value == null ? '–' : this.format(value)}`;
        words.push(c.word.textContent);
      }
    }
    for (const [key, c] of this.curves) {
      if (seen.has(key)) continue;
      for (const e of [c.line, c.area, c.word]) e?.remove();
      this.curves.delete(key);
    }
    this.svg.setAttribute('aria-label', `${this.title}, the last two minutes: ${words.join(', ')}; the scale ends at ${this.format(top)}`);
  }
}

// Spark is a curve without anything around it.
export class Spark {
  constructor() {
    this.element = svg('svg', { class: 'spark', viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' });
    this.lines = ['down', 'up'].map((style) => svg('path', { class: `line ${style}` }));
    this.element.append(...this.lines);
  }

  draw(down, up, now) {
    let most = 1000;
    for (const points of [down, up]) for (const [, v] of points) if (v > most) most = v;
    this.lines[0].setAttribute('d', path(down, now, most, false));
    this.lines[1].setAttribute('d', path(up, now, most, false));
  }
}
