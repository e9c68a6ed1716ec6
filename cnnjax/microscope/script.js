'use strict';

// The pages: #/, #/layer/NAME, #/atlas/NAME, #/unit/NAME/NUMBER and #/class/NUMBER. Data come by
// script tags, for a page that is opened from disk may fetch nothing: every data/*.js calls
// microscope.receive.

const microscope = {
  store: {},
  receive(key, value) {
    this.store[key] = value;
    if (key === 'manifest') start();
  },
};
const page = { view: 'positive', order: 'number', from: null, cleanup: () => {} };
let site, layers;

// ---- Small tools

function h(tag, attributes = {}, ...children) {
  const svg = /^(svg|g|rect|polygon|circle|line|text|title)$/.test(tag) || attributes.svg;
  const element = svg ? document.createElementNS('http://www.w3.org/2000/svg', tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'svg' || value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child ?? false));
  return element;
}

const $ = (id) => document.getElementById(id);
const times = (shape) => shape.join(' × ');
const shaped = (shape) => (shape.length > 1 ? times(shape) : `${count(shape[0])} units`);
const count = (number) => number.toLocaleString('en');
const url = {
  layer: (name) => `#/layer/${encodeURIComponent(name)}`,
  atlas: (name) => `#/atlas/${encodeURIComponent(name)}`,
  unit: (name, unit) => `#/unit/${encodeURIComponent(name)}/${unit}`,
  class: (index) => `#/class/${index}`,
};

function short(number) {
  if (number === null || number === undefined) return '–';
  const size = Math.abs(number);
  if (size && (size < 0.01 || size >= 1e5)) return number.toExponential(1).replace('-', '−');
  return number.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2).replace('-', '−');
}

function amount(number) {
  const power = Math.min(Math.floor(Math.log10(Math.max(number, 1)) / 3), 4);
  return `${Number((number / 1000 ** power).toPrecision(4))} ${' KMGT'[power]}`.trim();
}

// The value of a file of data, of which `sound(value)` must hold.
function load(key, sound) {
  const file = `data/${key}.js`;
  const checked = (value) => {
    if (value && sound(value)) return value;
    throw new Error(`${file} is damaged`);
  };
  if (key in microscope.store) return Promise.resolve(microscope.store[key]).then(checked);
  return new Promise((resolve, reject) => {
    const script = h('script', { src: `data/${escaped(key)}.js` });
    script.onload = () => { script.remove(); resolve(microscope.store[key]); };
    script.onerror = () => { script.remove(); reject(new Error(`${file} is missing`)); };
    document.head.append(script);
  }).then(checked);
}

const columns = (layer) => load(`${layer.name}/units`, (data) =>
  ['maximum', 'mean', 'active', 'best'].every((name) => data[name]?.length >= layer.done));
const record = async (layer, place) => {
  const [first, own] = [place - place % site.chunk, place % site.chunk];
  return (await load(`${layer.name}/${first}`, (data) =>
    data[own]?.unit === layer.channels[place] && Array.isArray(data[own].classes)))[own];
};
const escaped = (name) => name.split('/').map(encodeURIComponent).join('/');
const file = (layer, unit, kind) =>
  `images/${escaped(layer.name)}/${unit}-${kind}.${layer.suffix}`;
const maps = (layer) => load(`${layer.name}/maps`, (data) =>
  ['grid', 'atlas'].every((kind) => !data[kind] || Array.isArray(data[kind].shape))
  && (!data.atlas || Array.isArray(data.atlas.cells)));

// A layer shows some of its channels, in their order: a unit is the channel, its place is here.
const placeOf = (layer, unit) => (layer.channels[unit] === unit ? unit
  : layer.channels.indexOf(unit));

// ---- Pieces that several pages share

function field(row) {
  const [height, width] = site.image_shape;
  const seen = row.size?.map((n, i) => Math.min(n ?? Infinity, site.image_shape[i]));
  const side = Math.max(height, width);
  const shape = seen && { width: seen[1], height: seen[0], x: (side - seen[1]) / 2,
    y: (side - seen[0]) / 2 };
  const line = side / 36;
  const whole = side + 2 * line;
  return h('svg', { class: 'field', viewBox: `${-line} ${-line} ${whole} ${whole}`, role: 'img',
    'aria-label': `${sees(row)} of an image of ${times(site.image_shape.slice(0, 2))}` },
  h('rect', { class: 'whole', width, height, x: (side - width) / 2, y: (side - height) / 2,
    'stroke-width': line }),
  shape && h('rect', { class: 'seen', ...shape, 'stroke-width': line }));
}

const sees = (row) => (row.size ? (row.size.includes(null) ? 'sees the whole image'
  : `sees ${times(row.size)} pixels`) : 'sees nothing');
const pixelated = (pixels) => (pixels <= 16 ? 'pixels' : null);

const views = {
  positive: ['Maximized', 'The image that activates'],
  negative: ['Minimized', 'The image that inhibits'],
  patches: ['Patches', 'The nine strongest patches of'],
  projections: ['Projections', 'What in the patches activates'],
};

function picture(layer, unit, kind, attributes = {}) {
  const none = (why) => h('span', { class: 'none' }, why);
  if (placeOf(layer, unit) >= layer.done) return none('not made yet');
  if (kind === 'negative' && !layer.negative) return none('never below 0');
  const [side] = kind === 'positive' || kind === 'negative' ? layer.side : layer.patch;
  return h('img', { src: file(layer, unit, kind), loading: 'lazy', decoding: 'async',
    alt: `${views[kind][1]} ${layer.name} unit ${unit}`, class: pixelated(side),
    onerror: (event) => event.target.replaceWith(none('missing or damaged')), ...attributes });
}

function tile(layer, unit, kind, note) {
  return h('a', { class: 'tile', href: url.unit(layer.name, unit) },
    picture(layer, unit, kind), h('span', {}, h('b', {}, String(unit)), h('span', {}, note)));
}

function steps(previous, next, of) {
  const link = (target, sign, label) => (target
    ? h('a', { href: target, 'aria-label': `${label} ${of}`, rel: label.slice(0, 4) }, sign)
    : h('span', { 'aria-hidden': 'true' }, sign));
  const nav = h('nav', { class: 'steps', 'aria-label': `Other ${of}s` },
    link(previous, '←', 'Previous'), link(next, '→', 'Next'));
  nav.keys = { ArrowLeft: previous, ArrowRight: next };
  return nav;
}

function pairs(items) {
  return h('dl', {}, items.map(([term, value, small]) => h('div', {}, h('dt', {}, term),
    h('dd', {}, value, small ? h('small', {}, ` ${small}`) : null))));
}

// ---- The network

function home() {
  const units = layers.reduce((sum, layer) => sum + layer.units, 0);
  const done = layers.reduce((sum, layer) => sum + layer.done, 0);
  return [
    h('h1', {}, site.network),
    h('p', { class: 'lead' }, `What ${count(units)} units of ${layers.length} layers look for: the `
      + 'images that activate and inhibit each of them most, the strongest patches of '
      + `${count(site.images)} images of ${site.dataset}, and what in these patches they see.`),
    done < units ? h('p', { class: 'note', role: 'status' },
      `${count(done)} of ${count(units)} units so far. The same command continues; reload to see `
      + 'more.') : null,
    pairs([['Weights', h('span', { class: 'name' }, site.source)],
      ['Parameters', amount(site.parameters)], ['Multiply-adds', amount(site.multiply_adds)],
      ['Images', times(site.image_shape)], ['Classes', count(site.classes.length)]]),
    h('h2', {}, 'Architecture', h('small', {}, 'height: pixels, width: channels')),
    strip(),
    h('h2', {}, 'Layers'),
    h('ul', { class: 'cards' }, layers.map((layer) => h('li', {}, h('a', {
      class: 'card', href: url.layer(layer.name) },
    h('header', {}, h('div', {}, h('b', {}, layer.name),
      h('p', {}, `${shaped(layer.shape)}, ${sees(layer)}`)), field(layer)),
    h('div', { class: 'mosaic' }, Array.from({ length: Math.min(8, layer.done) }, (_, i) =>
      picture(layer, layer.channels[Math.floor(i * layer.done / Math.min(8, layer.done))],
        'positive', { alt: '' }))))))),
  ];
}

function strip() {
  // The layers that units stand for, and those between them, as blocks.
  const shown = [{ name: 'image', shape: site.image_shape, kind: 'image' }, ...site.rows];
  const root = Math.sqrt;
  const tallest = Math.max(...shown.map((row) => (row.shape.length > 1 ? row.shape[0] : 1)));
  const most = Math.max(...shown.map((row) => row.shape.at(-1)));
  const slant = 0.3;
  let x = 2;
  const blocks = shown.map((row) => {
    const flat = row.shape.length === 1;
    const channels = Math.log2(row.shape.at(-1) + 1) / Math.log2(most + 1);
    const height = flat ? 20 + 60 * channels : Math.max(104 * root(row.shape[0] / tallest), 5);
    const width = flat ? 6 : 4 + 22 * channels ** 2;
    const depth = flat ? 3 : slant * height;
    const low = 86 + (height + depth) / 2;
    const left = x;
    x += Math.max(width + depth + 7, 26);
    const face = (points, light) => h('polygon', { points: points.map((p) => p.join()).join(' '),
      style: `fill: color-mix(in srgb, var(--${kinds[row.kind][0]}), ${light})` });
    const [right, top] = [left + width, low - height];
    const label = `${row.name}, ${times(row.shape)}` + (row.size ? `, ${sees(row)}` : '');
    const shapes = [h('title', {}, label),
      face([[left, low], [right, low], [right, top], [left, top]], 'white 0%'),
      face([[left, top], [right, top], [right + depth, top - depth], [left + depth, top - depth]],
        'white 22%'),
      face([[right, low], [right + depth, low - depth], [right + depth, top - depth], [right, top]],
        'black 16%'),
      h('text', { transform: `translate(${left + width / 2 + 4} 172) rotate(-90)`,
        'text-anchor': 'end' }, row.name),
    ];
    const index = layers.findIndex((layer) => layer.name === row.name);
    return index < 0 ? h('g', { class: 'plain' }, shapes)
      : h('a', { svg: true, href: url.layer(row.name), 'aria-label': label }, shapes);
  });
  const longest = Math.max(...shown.map((row) => row.name.length));
  const below = 182 + 6.4 * longest;
  const used = [...new Set(shown.map((row) => row.kind))];
  return h('div', {},
    h('div', { class: 'strip', tabindex: '0', role: 'region', 'aria-label': 'The layers in order' },
      h('svg', { width: x + 4, height: below, viewBox: `0 0 ${x + 4} ${below}`, role: 'group',
        'aria-label': 'Layers as blocks' }, blocks)),
    h('p', { class: 'key' }, used.map((kind) =>
      h('span', { style: `--kind: var(--${kinds[kind][0]})` }, kind)),
    'pale: without a page of its own'));
}

const kinds = { image: ['image'], convolution: ['convolution'], block: ['block'], pool: ['pool'],
  'join, crop': ['join'], 'full layer': ['full'] };

// ---- A layer

async function layerPage(name) {
  const layer = layers.find((one) => one.name === name);
  if (!layer) return missing(`no layer ${name}`);
  const at = layers.indexOf(layer);
  const data = layer.done ? await columns(layer) : null;
  const link = (i) => (layers[i] ? url.layer(layers[i].name) : null);
  const orders = { number: ['number', null, () => null],
    maximum: ['strongest activation', data?.maximum, (place) => short(data.maximum[place])],
    mean: ['mean activation', data?.mean, (place) => short(data.mean[place])],
    active: ['rarely active first', data?.active.map((x) => -x),
      (place) => `${(100 * data.active[place]).toFixed(0)} %`] };
  const holder = h('div', { class: 'grid', role: 'group', 'aria-label': `Units of ${name}` });
  const show = () => {
    const order = layer.channels.map((_, place) => place);
    const [, value, note] = orders[page.order];
    if (value) order.sort((a, b) => (value[b] ?? -Infinity) - (value[a] ?? -Infinity) || a - b);
    const best = (place) => (data && data.best[place] !== null
      ? site.classes[data.best[place]] : '');
    grid(holder, order.map((place) => layer.channels[place]), (unit) => {
      const place = placeOf(layer, unit);
      return tile(layer, unit, page.view, place < layer.done ? note(place) ?? best(place) : '');
    });
  };
  holder.ready = () => {
    show();
    if (page.from?.layer === name) holder.reveal(page.from.unit);
  };
  return [
    h('div', { class: 'head' }, field(layer), h('div', {}, h('h1', { class: 'name' }, name),
      h('p', { class: 'lead' }, `${layer.kind}, ${shaped(layer.shape)}: every unit ${sees(layer)}`
        + (layer.stride?.some(Boolean) ? `, every ${times([...new Set(layer.stride)])} pixels.`
          : '.'))),
    steps(link(at - 1), link(at + 1), 'layer')),
    h('div', { class: 'tools' },
      h('fieldset', { class: 'choice', 'aria-label': 'Show' }, Object.keys(views).map((view) =>
        h('label', {}, h('input', { type: 'radio', name: 'view', value: view,
          checked: view === page.view, onchange: () => { page.view = view; show(); } }),
        h('span', {}, views[view][0])))),
      h('label', {}, 'Sort by', h('select', {
        onchange: (event) => { page.order = event.target.value; show(); } },
      Object.entries(orders).map(([key, [label]]) =>
        h('option', { value: key, selected: key === page.order }, label)))),
      h('output', {}, layer.done < layer.units
        ? `${count(layer.done)} of ${count(layer.units)} units so far`
        : `${count(layer.units)} units`
        + (layer.units < layer.shape.at(-1) ? ` of ${count(layer.shape.at(-1))}` : '')),
      layer.maps ? h('a', { href: url.atlas(name) }, 'Atlas of all units') : null),
    holder,
  ];
}

// Only the rows on the screen, and one screen above and below it, are elements: a layer may have
// thousands of units.
function grid(holder, order, make) {
  page.cleanup();
  const tiles = new Map();
  holder.replaceChildren();
  let across = 1;
  const draw = () => {
    const narrow = innerWidth < 704;
    const gap = narrow ? 8 : 14;
    across = Math.max(1, Math.floor((holder.clientWidth + gap) / ((narrow ? 92 : 118) + gap)));
    const width = (holder.clientWidth + gap) / across - gap;
    const height = width + 30 + gap / 2;
    holder.style.height = `${Math.ceil(order.length / across) * height}px`;
    const top = -holder.getBoundingClientRect().top;
    const first = across * Math.max(0, Math.floor((top - innerHeight) / height));
    const last = across * Math.ceil((top + 2 * innerHeight) / height);
    for (const [place, element] of tiles) {
      if ((place < first || place >= last) && element !== document.activeElement) {
        element.remove();
        tiles.delete(place);
      }
    }
    for (let place = first; place < Math.min(last, order.length); place++) {
      let element = tiles.get(place);
      if (!element) {
        element = make(order[place]);
        element.dataset.place = place;
        if (page.from?.unit === order[place] && page.from.layer === page.layer) {
          element.setAttribute('aria-current', 'true');
        }
        tiles.set(place, element);
        const after = [...holder.children].find((other) => Number(other.dataset.place) > place);
        holder.insertBefore(element, after ?? null);
      }
      element.style.cssText = `width: ${width}px; left: ${place % across * (width + gap)}px; `
        + `top: ${Math.floor(place / across) * height}px`;
    }
    return height;
  };
  const go = (place, focus = true) => {
    const height = draw();
    const y = holder.getBoundingClientRect().top + Math.floor(place / across) * height;
    if (y < 130 || y + height > innerHeight) scrollBy(0, y - innerHeight / 3);
    draw();
    if (focus) tiles.get(place).focus({ preventScroll: true });
  };
  holder.reveal = (unit) => go(Math.max(order.indexOf(unit), 0));
  holder.first = () => go(0);
  holder.onkeydown = (event) => {
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across,
      Home: -Infinity, End: Infinity };
    if (!(event.key in moves) || event.altKey || event.ctrlKey || event.metaKey) return;
    const here = Number(event.target.closest('.tile')?.dataset.place);
    let place = here + moves[event.key];
    if (Math.abs(moves[event.key]) === Infinity) place = place < 0 ? 0 : order.length - 1;
    event.preventDefault();
    event.stopPropagation();
    if (place >= 0 && place < order.length) go(place);
  };
  let waiting = false;
  const later = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  };
  addEventListener('scroll', later, { passive: true });
  addEventListener('resize', later);
  page.cleanup = () => {
    removeEventListener('scroll', later);
    removeEventListener('resize', later);
    page.cleanup = () => {};
  };
  draw();
}

// ---- The atlas of a layer, and the grid of a photograph

async function atlasPage(name) {
  const layer = layers.find((one) => one.name === name);
  if (!layer?.maps) return missing(`no atlas of ${name}`);
  const data = await maps(layer);
  const others = layers.filter((one) => one.maps);
  const link = (i) => (others[i] ? url.atlas(others[i].name) : null);
  const at = others.indexOf(layer);
  const sheet = (kind, alt, cells = []) => {
    const [rows, across] = data[kind].shape;
    const place = (row, column) => `left: ${100 * column / across}%; top: ${100 * row / rows}%; `
      + `width: ${100 / across}%; height: ${100 / rows}%`;
    return h('div', { class: 'sheet', style: `--ratio: ${across} / ${rows}` },
      h('img', { src: `images/${escaped(name)}/${kind}.png`, alt }),
      cells.map(([row, column, number, label]) => {
        const said = `${number === 1 ? '1 image' : `${count(number)} images`}`
          + (label === null ? '' : `, seen as ${site.classes[label]}`);
        const own = { style: place(row, column), title: said };
        return label === null ? h('span', own) : h('a', { ...own, href: url.class(label) },
          h('span', {}, site.classes[label]));
      }));
  };
  return [
    h('div', { class: 'head' }, field(layer), h('div', {}, h('h1', {}, 'Atlas'),
      h('p', { class: 'lead' }, 'of ', h('a', { href: url.layer(name), class: 'name' }, name),
        `: ${shaped(layer.shape)}, ${sees(layer)}`)), steps(link(at - 1), link(at + 1), 'atlas')),
    data.atlas ? [
      h('h2', {}, 'Activation atlas', h('small', {}, `of ${count(data.atlas.images)} images`)),
      h('p', { class: 'soft' }, 'Activations that are alike are near each other. Each picture is '
        + 'made for the mean of those in its cell; the more they are, the larger it is. Below is '
        + 'the class that the network sees in their images.'),
      sheet('atlas', `Activation atlas of ${name}`, data.atlas.cells)] : null,
    data.grid ? [
      h('h2', {}, 'Activation grid', h('small', {}, 'of one picture')),
      h('p', { class: 'soft' }, 'Each picture is made for the activations at its place; the '
        + 'stronger they are, the larger it is.'),
      h('div', { class: 'beside' },
        h('img', { src: 'images/photograph.png', alt: 'The picture',
          class: pixelated(site.image_shape[0]) }),
        sheet('grid', `Activation grid of ${name}`))] : null,
  ].flat();
}

// ---- A unit

async function unitPage(name, unit) {
  const layer = layers.find((one) => one.name === name);
  const place = layer ? placeOf(layer, unit) : -1;
  if (place < 0) return missing(`no unit ${unit} in ${name}`);
  page.from = { layer: name, unit };
  const link = (i) => (layer.channels[i] !== undefined ? url.unit(name, layer.channels[i]) : null);
  const head = h('div', { class: 'head' }, field(layer), h('div', {}, h('h1', {}, `Unit ${unit}`),
    h('p', { class: 'lead' }, 'of ', h('a', { href: url.layer(name), class: 'name' }, name),
      layer.output ? [', the class ', h('a', { href: url.class(unit) }, site.classes[unit])] : null,
      `: ${shaped(layer.shape)}, ${sees(layer)}`)), steps(link(place - 1), link(place + 1), 'unit'));
  if (place >= layer.done) {
    return [head, h('p', { class: 'note' },
      'This unit is not made yet: the same command continues.')];
  }
  const [own, all] = await Promise.all([record(layer, place), columns(layer)]);
  const extreme = (kind, title) => h('figure', {}, picture(layer, unit, kind),
    h('figcaption', {}, h('b', {}, title), kind === 'negative' && !layer.negative
      ? ' · its activations are rectified' : ` · ${layer.target} ${short(own[kind])}`,
    own.health[kind] ? h('span', {}, h('br'), own.health[kind]) : null));
  const [rows, across] = layer.patch;
  // Of a sheet of three by three. Smoothing would mix in the neighbours: half a pixel is left out.
  const part = (i, n) => { const cut = pixelated(rows) || n < 4 ? 0 : 0.5;
    return [300 * n / (n - 2 * cut), -100 * (i * n + cut) / (n - 2 * cut)]; };
  const cell = (i, kind, alt) => {
    const [width, left] = part(i % 3, across);
    const [height, top] = part(Math.floor(i / 3), rows);
    return h('span', { class: 'crop', style: `--ratio: ${across} / ${rows}` },
      h('img', { src: file(layer, unit, kind), alt, class: pixelated(rows),
        onerror: (event) => event.target.replaceWith(
          h('span', { class: 'none' }, 'missing or damaged')),
        style: `width: ${width}%; height: ${height}%; left: ${left}%; top: ${top}%` }));
  };
  return [
    head,
    h('div', { class: 'top' },
      h('div', { class: 'extremes' }, extreme('positive', 'Maximized'),
        extreme('negative', 'Minimized')),
      h('section', {},
        h('h2', {}, 'Activation', h('small', {}, `over ${count(site.images)} images`)),
        pairs([['Maximum', short(own.scores[0])],
          ['Mean', short(own.mean), `± ${short(own.deviation)}`],
          ['Active in', `${(100 * own.active).toFixed(own.active && own.active < 0.1 ? 1 : 0)} %`,
            'of the images']]),
        swarm(layer, all.maximum, place))),
    own.facets?.length ? [
      h('h2', {}, 'Facets', h('small', {}, `of ${name}: images that activate it, made to differ`)),
      h('ol', { class: 'facets' }, own.facets.map((score, i) => h('li', {}, h('figure', {},
        h('span', { class: 'crop' }, h('img', { src: file(layer, unit, 'facets'),
          alt: `Facet ${i + 1}`, class: pixelated(layer.facet[0]),
          onerror: (event) => event.target.replaceWith(
            h('span', { class: 'none' }, 'missing or damaged')),
          style: `width: ${100 * own.facets.length}%; height: 100%; left: ${-100 * i}%; top: 0` })),
        h('figcaption', {}, h('b', {}, short(score)))))))] : null,
    h('h2', {}, 'Strongest patches', h('small', {},
      `below each what in it activates the unit: its ${site.rule} projection`)),
    h('ol', { class: 'patches' }, own.scores.map((score, i) => h('li', {}, h('figure', {},
      cell(i, 'patches', `Patch ${i + 1}: image ${own.images[i]}, ${site.classes[own.labels[i]]}`),
      cell(i, 'projections', `Projection of patch ${i + 1}`),
      h('figcaption', {}, h('b', {}, short(score)),
        h('a', { href: url.class(own.labels[i]) }, site.classes[own.labels[i]])))))),
    h('h2', {}, 'By class', h('small', {}, 'mean of the images’ maxima')),
    bars(own.classes),
  ].flat();
}

function swarm(layer, values, own) {
  const [width, most, radius] = [460, 110, 3.2];
  const known = values.map((value, place) => [value, place]).filter(([value]) => value !== null);
  const low = Math.min(0, ...known.map(([value]) => value));
  const high = Math.max(...known.map(([value]) => value), low + 1e-9);
  const bins = new Map();
  const spots = known.sort((a, b) => (a[1] === own) - (b[1] === own)).map(([value, place]) => {
    const x = 6 + (width - 12) * (value - low) / (high - low);
    const bin = Math.round(x / (2 * radius));
    const rank = bins.get(bin) ?? 0;
    bins.set(bin, rank + 1);
    return [x, rank, place];
  });
  const highest = Math.max(...bins.values());
  const room = Math.min(2 * radius, (most - 2 * radius) / highest);
  const height = 2 * radius + highest * room + 4;
  // Of a large layer every so many: the picture is the same.
  const every = Math.ceil(spots.length / 600);
  return h('svg', { class: 'beeswarm', viewBox: `0 0 ${width} ${height + 20}`, role: 'img',
    'aria-label': `The maximum of unit ${layer.channels[own]} is ${short(values[own])}; those of `
      + `${layer.name} are `
      + `between ${short(low)} and ${short(high)}` },
  h('line', { x1: 0, x2: width, y1: height + 1, y2: height + 1 }),
  spots.filter(([, , place], i) => place === own || i % every === 0).map(([x, rank, place]) =>
    h('circle', { cx: x, cy: height - radius - rank * room, r: place === own ? 5 : radius - 0.4,
      class: place === own ? 'own' : null })),
  h('text', { x: 0, y: height + 16 }, short(low)),
  h('text', { x: width / 2, y: height + 16, 'text-anchor': 'middle' }, `maxima of ${layer.name}`),
  h('text', { x: width, y: height + 16, 'text-anchor': 'end' }, short(high)));
}

function bars(values) {
  const some = 24;
  const known = values.map((value, index) => [value, index]).filter(([value]) => value !== null);
  known.sort((a, b) => b[0] - a[0] || a[1] - b[1]);
  if (!known.length) return h('p', { class: 'soft' }, 'The data set has no classes.');
  const low = Math.min(0, known.at(-1)[0]);
  const span = Math.max(0, known[0][0]) - low || 1;
  const bar = ([value, index]) => h('li', {},
    h('a', { href: url.class(index), title: site.classes[index] }, site.classes[index]),
    h('span', { class: 'track' }, h('i', {
      style: `left: ${100 * (Math.min(value, 0) - low) / span}%; `
      + `width: ${100 * Math.abs(value) / span}%` })),
    h('span', {}, short(value)));
  const longest = Math.max(...known.map(([, index]) => site.classes[index].length));
  const list = h('ol', { class: 'bars', style: `--label: ${Math.min(10, 1 + longest / 2)}rem` },
    known.slice(0, some).map(bar));
  if (known.length <= some) return list;
  const more = h('button', { class: 'more', type: 'button', onclick: () => {
    list.append(...known.slice(some).map(bar));
    more.remove();
  } }, `All ${count(known.length)} classes`);
  return h('div', {}, list, more);
}

// ---- A class

async function classPage(index) {
  if (site.classes[index] === undefined) return missing(`no class ${index}`);
  const found = await load(`classes/${index}`, (data) => layers.every(({ name }) => name in data));
  const link = (i) => (site.classes[i] !== undefined ? url.class(i) : null);
  const logit = layers.find((layer) => layer.output && placeOf(layer, index) >= 0);
  return [
    h('div', { class: 'head' }, h('div', {}, h('h1', {}, site.classes[index]),
      h('p', { class: 'lead' }, `Class ${index} of ${count(site.classes.length)}: in every layer `
        + 'the units whose maxima on its images stand out most from those on other classes, in '
        + 'standard deviations.',
      logit ? [' Its own unit is ', h('a', { href: url.unit(logit.name, index) },
        `${logit.name} ${index}`), '.'] : null)),
    steps(link(index - 1), link(index + 1), 'class')),
    [...layers].reverse().map((layer) => (found[layer.name] ?? []).length ? [
      h('h2', {}, h('a', { href: url.layer(layer.name), class: 'name' }, layer.name)),
      h('div', { class: 'row' }, found[layer.name].map(([unit, score]) =>
        tile(layer, unit, 'positive', `+${score.toFixed(1)} σ`)))] : null).flat(),
  ];
}

const missing = (what) => [h('h1', {}, 'Not here'), h('p', {}, `This microscope has ${what}. `,
  h('a', { href: '#/' }, 'All layers'))];
const broken = (what) => [h('h1', {}, 'Cannot be shown'), h('p', {}, `${what}. The command that `
  + 'made this site, given again, mends it. ', site && h('a', { href: '#/' }, 'All layers'))];

// ---- Going from page to page

let turn = 0;

// How many parts the address of each kind of page has.
const lengths = new Map([['', 1], ['layer', 2], ['atlas', 2], ['unit', 3], ['class', 2]]);

// The parts of an address; null where no page has it.
function parsed(hash) {
  const parts = hash.slice(2).split('/');
  if (hash && !hash.startsWith('#/') || lengths.get(parts[0]) !== parts.length) return null;
  try {
    return parts.map(decodeURIComponent);
  } catch {
    return null; // '%', of which nothing follows
  }
}

async function route() {
  const own = ++turn;
  const address = parsed(location.hash);
  const [kind, name, number] = address ?? [''];
  page.cleanup();
  page.up = kind ? '#/' : null;
  const within = ['layer', 'atlas', 'unit'].includes(kind);
  page.layer = within ? name : null;
  const trail = [['#/', site.network]];
  if (!address) trail.push([null, 'not here']);
  if (within) trail.push([url.layer(name), name]);
  if (kind === 'unit' || kind === 'atlas') {
    trail.push([null, kind === 'unit' ? `unit ${number}` : 'atlas']);
    page.up = url.layer(name);
  }
  if (kind === 'class') trail.push([null, site.classes[Number(name)] ?? name]);
  let content;
  try {
    content = await (kind === 'layer' ? layerPage(name) : kind === 'unit'
      ? unitPage(name, Number(number)) : kind === 'class' ? classPage(Number(name))
        : kind === 'atlas' ? atlasPage(name) : address ? home() : [h('p', { class: 'note', role: 'status' },
          `There is no page ${location.hash}: this is the first.`), ...home()]);
  } catch (error) {
    content = broken(error.message);
  }
  if (own !== turn) return; // another page was asked for meanwhile
  if (!within) page.from = null;
  document.title = trail.map(([, label]) => label).reverse().join(' · ');
  $('trail').replaceChildren(...trail.flatMap(([target, label], i) => [
    ...(i ? [h('i', { 'aria-hidden': 'true' }, '/')] : []),
    i === trail.length - 1 ? h('span', { 'aria-current': 'page' }, target === '#/'
      ? h('a', { href: '#/' }, label) : label) : h('a', { href: target }, label)]));
  $('main').replaceChildren(...content.flat().filter(Boolean));
  scrollTo(0, 0);
  if (own > 1) $('main').focus({ preventScroll: true }); // at first the browser's own order
  document.querySelector('.grid')?.ready();
  $('main').dataset.page = location.hash;
}

function keys(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const typing = event.target.matches('#search');
  const step = document.querySelector('.steps')?.keys[event.key];
  const grid = document.querySelector('.grid');
  if (event.key === '/' && !typing) {
    event.preventDefault();
    $('search').focus();
    $('search').select();
  } else if (event.key === 'Escape' && !typing && page.up) {
    location.hash = page.up;
  } else if (event.target.matches('input, select, .strip')) {
    return; // whose own the arrows are
  } else if (step) {
    location.hash = step;
  } else if (event.key === 'ArrowDown' && grid) {
    event.preventDefault();
    grid.first();
  } else if (event.key === 'ArrowUp' && page.up && !grid && !scrollY) {
    location.hash = page.up;
  }
}

// ---- Search

function find(text) {
  // 'relu3', '17', 'relu3_1 17' or a class.
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return [];
  const unit = /^\d+$/.test(words.at(-1)) ? Number(words.at(-1)) : null;
  const named = (name, wanted) => wanted.every((word) => name.toLowerCase().includes(word));
  const found = [];
  if (unit !== null) {
    const wanted = words.slice(0, -1);
    const here = (layer) => layer.name !== page.layer; // the layer of this page first
    [...layers].sort((a, b) => here(a) - here(b)).forEach((layer) => {
      if (placeOf(layer, unit) >= 0 && named(layer.name, wanted)) {
        found.push([url.unit(layer.name, unit), `${layer.name} unit ${unit}`, 'unit']);
      }
    });
  }
  const others = [];
  layers.forEach((layer) => {
    if (named(layer.name, words)) {
      others.push([url.layer(layer.name), layer.name, `${count(layer.units)} units`]);
    }
  });
  site.classes.forEach((name, index) => {
    if (named(name, words)) others.push([url.class(index), name, 'class']);
  });
  const exact = others.filter(([, name]) => name.toLowerCase() === words.join(' '));
  return [...exact, ...found.slice(0, 8),
    ...others.filter((other) => !exact.includes(other))].slice(0, 12);
}

function searching() {
  const [input, list] = [$('search'), $('results')];
  let chosen = 0;
  const close = () => {
    list.hidden = true;
    input.setAttribute('aria-expanded', 'false');
    input.removeAttribute('aria-activedescendant');
  };
  const choose = (i) => {
    const options = [...list.querySelectorAll('[role=option]')];
    if (!options.length) return;
    chosen = (i + options.length) % options.length;
    options.forEach((option, k) => option.setAttribute('aria-selected', String(k === chosen)));
    options[chosen].scrollIntoView({ block: 'nearest' });
    input.setAttribute('aria-activedescendant', options[chosen].id);
  };
  const show = () => {
    const found = find(input.value);
    list.hidden = !input.value.trim();
    input.setAttribute('aria-expanded', String(!list.hidden));
    list.replaceChildren(...found.map(([target, label, kind], i) =>
      h('li', { role: 'option', id: `found-${i}` }, h('a', { href: target, tabindex: '-1' },
        h('span', {}, label), h('span', {}, kind)))));
    if (!found.length) {
      list.append(h('li', { role: 'none' }, h('p', {}, 'Nothing of that name.')));
    }
    choose(0);
  };
  input.addEventListener('input', show);
  input.addEventListener('focus', () => { if (input.value) show(); });
  input.addEventListener('keydown', (event) => {
    if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
      event.preventDefault();
      choose(chosen + (event.key === 'ArrowDown' ? 1 : -1));
    } else if (event.key === 'Enter' && !list.hidden) {
      list.querySelector('[aria-selected=true] a')?.click();
    } else if (event.key === 'Escape') {
      event.stopPropagation();
      input.value = '';
      close();
      $('main').focus({ preventScroll: true });
    }
  });
  list.addEventListener('mousedown', (event) => event.preventDefault()); // the input stays focused
  list.addEventListener('click', () => { input.value = ''; close(); input.blur(); });
  input.addEventListener('blur', close);
}

// ---- Light and dark: the system's, or the reader's choice

const remembered = {
  get: () => { try { return localStorage.getItem('theme'); } catch { return null; } },
  set: (value) => { try { localStorage.setItem('theme', value); } catch { /* not kept */ } },
};
const darkness = matchMedia('(prefers-color-scheme: dark)');

function paint() {
  const theme = remembered.get() ?? (darkness.matches ? 'dark' : 'light');
  document.documentElement.dataset.theme = theme;
  $('theme').setAttribute('aria-pressed', String(theme === 'dark'));
}

paint();
darkness.addEventListener('change', paint);
$('theme').addEventListener('click', () => {
  remembered.set(document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark');
  paint();
});

// Without its manifest, the site has no page.
addEventListener('load', () => {
  if (!layers) $('main').replaceChildren(...broken('data/manifest.js is missing or damaged'));
});

function start() {
  const found = microscope.store.manifest;
  if (![found?.layers, found?.rows, found?.classes, found?.image_shape].every(Array.isArray)
      || !found.layers.every((layer) => Array.isArray(layer.channels))) return;
  site = found;
  layers = site.layers;
  $('made').textContent = `cnnjax ${site.versions.cnnjax}, `
    + `weights ${site.fingerprint.slice(0, 12)}`;
  searching();
  addEventListener('hashchange', route);
  document.querySelector('.skip').addEventListener('click', (event) => {
    event.preventDefault(); // '#main' is no page
    $('main').focus();
  });
  addEventListener('keydown', keys);
  route();
}
