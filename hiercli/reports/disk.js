"use strict";
// The view is one Moebius motion: the frame of an anchor node near the middle, placed in the disk.
// A motion z -> (a z + b) / (conj(b) z + conj(a)) is kept as [Re a, Im a, Re b, Im b]. All other
// nodes are reached from the anchor along the tree, so numbers stay small however deep it is; what
// lies farther away than FAR is only ever reached by a jump.
//
// hierTree(root, data, options) fills an element. Options: title; preview(id) gives the address of a
// larger picture; search(id) looks for images like one; onChoose(name) is told what is chosen.
const hierTree = (root, data, options = {}) => {
  root.classList.add("tree");
  root.innerHTML = `
    <header class="bar">
      <h1></h1>
      <div id="find"><input id="query" type="search" placeholder="Find a class or photo ( / )"
        aria-label="Find a class, a node or a photo" role="combobox" aria-expanded="false"
        aria-controls="found" aria-autocomplete="list" autocomplete="off">
      <ul id="found" role="listbox" aria-label="Results"></ul></div>
      <label>Colour by <select id="colouring"><option value="branch">branch</option>
        <option value="purity">purity</option><option value="depth">depth</option></select></label>
      <button id="home" title="Centre the root (Home)">Root</button>
      <button id="nearer" title="Zoom in (+)" aria-label="Zoom in">+</button>
      <button id="back" title="Zoom out (-)" aria-label="Zoom out">−</button>
      <button id="theme" title="Dark or light">◐<span class="hidden"> dark or light</span></button>
    </header>
    <div id="stage">
      <canvas id="disk" tabindex="0" role="application" aria-label="The tree in a hyperbolic disk.
        Arrow keys move along the tree. Home goes to the root."></canvas>
      <div id="tip"></div>
      <ul id="legend"></ul>
      <canvas id="map" width="132" height="132" aria-hidden="true"></canvas>
      <div id="keys">drag: move · wheel: zoom · click: centre<br>
        arrow keys: next node · Home: root · /: search</div>
    </div>
    <aside><div id="panel"></div><p><small id="note"></small></p></aside>
    <div id="told" class="hidden" aria-live="polite"></div>`;
  const part = (id) => root.querySelector(`#${id}`);
  root.querySelector("h1").textContent = options.title ?? "";
  part("note").textContent = options.note ?? "";
  if (options.embedded) part("theme").remove();
  const { parent, distance, angle, kind, name, size, purity, radius, colour, picture } = data.places;
  const count = parent.length;
  const NODE = 0, JOINT = 1, PHOTO = 2, FAR = 15;
  const children = Array.from({ length: count }, () => []);
  for (let i = 1; i < count; i++) children[parent[i]].push(i);

  const stage = part("stage"), canvas = part("disk"), map = part("map").getContext("2d");
  const pen = canvas.getContext("2d"), tip = part("tip");
  const panel = part("panel"), told = part("told");
  const query = part("query"), found = part("found");
  const sheets = data.sheets.map((source) => Object.assign(new Image(), { src: source }));
  sheets.forEach((sheet) => sheet.addEventListener("load", ask));

  // Motions --------------------------------------------------------------------------------------
  const compose = (m, n) => {
    const [a, b, c, d] = m, [e, f, g, h] = n; // m = (a + ib, c + id)
    const made = [
      a * e - b * f + c * g + d * h, a * f + b * e - c * h + d * g,
      a * g - b * h + c * e + d * f, a * h + b * g - c * f + d * e,
    ];
    const scale = 1 / Math.sqrt(made[0] ** 2 + made[1] ** 2 - made[2] ** 2 - made[3] ** 2);
    return made.map((value) => value * scale);
  };
  const turn = (t) => [Math.cos(t / 2), Math.sin(t / 2), 0, 0];
  const shift = (d) => [Math.cosh(d / 2), 0, Math.sinh(d / 2), 0];
  const towards = (x, y, d) => { // moves the middle by d in the direction of (x, y)
    const t = Math.atan2(y, x);
    return compose(compose(turn(t), shift(d)), turn(-t));
  };
  const middle = ([a, b, c, d]) => { // image of 0: beta / conj(alpha)
    const square = a * a + b * b;
    return [(c * a - d * b) / square, (c * b + d * a) / square];
  };
  const down = distance.map((d, i) => (i ? compose(turn(angle[i]), shift(d)) : null));
  const up = distance.map((d, i) => (i ? compose(shift(-d), turn(-angle[i])) : null));
  const apart = (x, y) => 2 * Math.atanh(Math.min(Math.hypot(x, y), 1 - 1e-15));

  // State ----------------------------------------------------------------------------------------
  let anchor = 0, frame = [1, 0, 0, 0], chosen = 0, hovered = -1, flight = null, asked = false;
  let width = 0, height = 0, reach = 0, colouring = "branch", drawn = [], shown = [];
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const style = (key) => getComputedStyle(document.documentElement).getPropertyValue(key).trim();

  const settle = () => { // keep the anchor the node nearest to the middle
    for (;;) {
      const [x, y] = middle(frame), own = x * x + y * y;
      let best = -1, least = own - 1e-9, next = null;
      const look = (i, made) => {
        const [u, v] = middle(made);
        if (u * u + v * v < least) { best = i; least = u * u + v * v; next = made; }
      };
      if (anchor) look(parent[anchor], compose(frame, up[anchor]));
      for (const i of children[anchor]) look(i, compose(frame, down[i]));
      if (best < 0) return;
      anchor = best; frame = next;
    }
  };
  const move = (motion) => {
    const made = compose(motion, frame);
    if (made.every(Number.isFinite)) { frame = made; settle(); ask(); }
  };
  const jump = (i) => { anchor = i; frame = [1, 0, 0, 0]; flight = null; ask(); };
  const frameOf = (i) => { // where the frame of any node is now; null where it is far away
    const line = (j) => { const seen = [j]; while (j) seen.push(j = parent[j]); return seen; };
    const mine = line(i), theirs = line(anchor);
    while (mine.length > 1 && theirs.length > 1 && mine.at(-2) === theirs.at(-2)) {
      mine.pop(); theirs.pop();
    }
    let made = frame;
    const steps = [...theirs.slice(0, -1).map((j) => up[j]), ...mine.slice(0, -1).reverse().map((j) => down[j])];
    for (const step of steps) {
      made = compose(made, step);
      if (!(apart(...middle(made)) < FAR)) return null;
    }
    return made;
  };
  const fly = (i) => { // along the geodesic, so that the node comes to the middle
    const begun = frameOf(i), far = begun ? apart(...middle(begun)) : 0;
    if (!begun || still.matches || far < 1e-6) return jump(i);
    const started = performance.now(), lasts = Math.min(900, 250 + 110 * far);
    let done = 0;
    flight = () => {
      const t = Math.min(1, (performance.now() - started) / lasts);
      const share = t * t * (3 - 2 * t), goal = frameOf(i);
      if (!goal) return jump(i);
      const [u, v] = middle(goal), left = apart(u, v);
      const step = Math.min(left, t < 1 ? (share - done) * far : left, 3);
      done = share;
      if (step > 0) move(towards(u, v, -step));
      if (t >= 1 && left <= step + 1e-9) flight = null;
      ask();
    };
    ask();
  };

  // Drawing --------------------------------------------------------------------------------------
  const cividis = ["#00336f", "#4c556c", "#7c7b78", "#b0a473", "#fee838"];
  const known = (values) => values.filter((value) => value !== null);
  const range = (values) => { const some = known(values); return [Math.min(...some), Math.max(...some)]; };
  const bounds = { purity: [0, 1], depth: known(radius).length ? range(radius) : [0, 1] };
  const mix = (share) => {
    const at = Math.max(0, Math.min(1, share)) * (cividis.length - 1), low = Math.min(3, Math.floor(at));
    const part = (text, k) => parseInt(text.slice(1 + 2 * k, 3 + 2 * k), 16);
    const rgb = [0, 1, 2].map((k) => Math.round(
      part(cividis[low], k) * (low + 1 - at) + part(cividis[low + 1], k) * (at - low)));
    return `rgb(${rgb})`;
  };
  const paint = (i) => {
    const node = kind[i] === PHOTO ? parent[i] : i;
    if (colouring === "branch") return data.colours[colour[node]];
    const value = (colouring === "purity" ? purity : radius)[node], [low, high] = bounds[colouring];
    return value === null ? data.colours[0] : mix((value - low) / (high - low || 1));
  };
  function ask() { if (!asked) { asked = true; requestAnimationFrame(draw); } }

  function visit(see) { // every node from the anchor outwards, with its place
    const waiting = [[anchor, -1, frame]];
    while (waiting.length) {
      const [i, from, made] = waiting.pop(), [x, y] = middle(made);
      see(i, x, y);
      if (x * x + y * y > 1 - 1e-7) continue;
      if (i && parent[i] !== from) waiting.push([parent[i], i, compose(made, up[i])]);
      for (const j of children[i]) if (j !== from) waiting.push([j, i, compose(made, down[j])]);
    }
  }
  const at = new Float64Array(2 * count), seen = new Uint8Array(count);
  const onScreen = (i) => [width / 2 + reach * at[2 * i], height / 2 - reach * at[2 * i + 1]];

  function arc(i, j) { // the geodesic: a circle that meets the rim at right angles
    const [ax, ay, bx, by] = [at[2 * i], at[2 * i + 1], at[2 * j], at[2 * j + 1]];
    const turned = ax * by - ay * bx, [px, py] = onScreen(i), [qx, qy] = onScreen(j);
    pen.moveTo(px, py);
    if (Math.abs(turned) < 1e-3 || Math.hypot(px - qx, py - qy) < 12) return pen.lineTo(qx, qy);
    const sa = 1 + ax * ax + ay * ay, sb = 1 + bx * bx + by * by;
    const cx = (sa * by - sb * ay) / (2 * turned), cy = (sb * ax - sa * bx) / (2 * turned);
    const r = Math.hypot(ax - cx, ay - cy), sx = width / 2 + reach * cx, sy = height / 2 - reach * cy;
    const from = Math.atan2(py - sy, px - sx), to = Math.atan2(qy - sy, qx - sx);
    const by2 = ((to - from + 3 * Math.PI) % (2 * Math.PI)) - Math.PI;
    pen.arc(sx, sy, r * reach, from, to, by2 < 0);
  }

  function draw() {
    asked = false;
    if (flight) flight();
    pen.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.beginPath(); pen.arc(width / 2, height / 2, reach, 0, 2 * Math.PI);
    pen.fillStyle = style("--disk"); pen.fill();
    pen.strokeStyle = style("--line"); pen.lineWidth = 1; pen.stroke();
    seen.fill(0); drawn = [];
    visit((i, x, y) => { at[2 * i] = x; at[2 * i + 1] = y; seen[i] = 1; drawn.push(i); });

    pen.lineWidth = 1.2; pen.strokeStyle = style("--branch"); pen.beginPath();
    for (const i of drawn) if (i && kind[i] !== PHOTO && seen[parent[i]]) arc(parent[i], i);
    pen.stroke();
    pen.lineWidth = 3; pen.strokeStyle = style("--accent"); pen.beginPath(); // the path to the root
    for (let i = chosen; i > 0; i = parent[i]) if (seen[i] && seen[parent[i]]) arc(parent[i], i);
    pen.stroke();

    const ink = style("--ink"), paper = style("--disk"), labels = [];
    const near = (i) => 1 - at[2 * i] ** 2 - at[2 * i + 1] ** 2;
    const scale = Math.min(1.25, reach / 340);
    for (const i of drawn.slice().reverse()) if (kind[i] === PHOTO) { // the most typical on top
      const [x, y] = onScreen(i), side = 60 * scale * near(i) ** 1.15;
      if (side > 13 && picture[i] >= 0 && show(i, x, y, side)) continue;
      const dot = Math.max(0.8, 4.2 * scale * near(i));
      pen.fillStyle = paint(i);
      if (dot < 1.6) pen.fillRect(x - dot, y - dot, 2 * dot, 2 * dot);
      else { pen.beginPath(); pen.arc(x, y, dot, 0, 7); pen.fill(); }
    }
    shown = [];
    const free = (x, y, half) => shown.every(([u, v, own]) => (x - u) ** 2 + (y - v) ** 2 > (half + own) ** 2);
    const bySize = drawn.filter((i) => kind[i] === NODE).sort((i, j) => near(j) - near(i) || size[j] - size[i]);
    for (const i of bySize) {
      const [x, y] = onScreen(i), close = near(i), leaf = !children[i].some((j) => kind[j] !== PHOTO);
      const dot = Math.max(1, (leaf ? 6 : 5 + 1.3 * Math.log1p(size[i])) * scale * close);
      // A leaf without photos near enough to be seen shows its most typical one, where there is room.
      const own = picture[i] >= 0 ? i : leaf ? children[i].find((j) => picture[j] >= 0) ?? -1 : -1;
      const half = dot > 4 && picture[i] >= 0 ? 2.4 * dot : leaf && 60 * scale * close < 26 ? Math.max(15 * scale, 2 * dot) : 0;
      const wide = own >= 0 && half && free(x, y, half) && disc(own, x, y, half) ? half : dot;
      if (wide === half) shown.push([x, y, half]);
      if (wide === dot) { pen.beginPath(); pen.arc(x, y, dot, 0, 7); pen.fillStyle = paint(i); pen.fill(); }
      if (dot > 2.5 && (wide === dot || i === chosen)) { pen.lineWidth = i === chosen ? 3 : 1; pen.strokeStyle = i === chosen ? style("--accent") : ink; pen.stroke(); }
      if (close > 0.06) labels.push([i, x, y, wide, (i === chosen ? 9 : close) * (1 + Math.log1p(size[i]) / 6)]);
    }
    if (chosen && kind[chosen] === PHOTO && seen[chosen]) ring(chosen, style("--accent"));
    if (hovered >= 0 && seen[hovered]) ring(hovered, ink);
    write(labels, ink, paper, near);
    overview();
  }
  // A small picture of the whole tree, with the place that is in the middle now ------------------
  const overviewPlaces = (() => { // from the root, once
    const found = new Float32Array(2 * count).fill(NaN), waiting = [[0, [1, 0, 0, 0]]];
    while (waiting.length) {
      const [i, made] = waiting.pop(), [x, y] = middle(made);
      found[2 * i] = x; found[2 * i + 1] = y;
      if (apart(x, y) < FAR) for (const j of children[i]) waiting.push([j, compose(made, down[j])]);
    }
    return found;
  })();
  const overview = () => {
    const side = 132, half = side / 2, at0 = (i) => [half + overviewPlaces[2 * i] * (half - 4), half - overviewPlaces[2 * i + 1] * (half - 4)];
    map.clearRect(0, 0, side, side);
    map.beginPath(); map.arc(half, half, half - 2, 0, 7); map.fillStyle = style("--disk"); map.fill();
    map.strokeStyle = style("--line"); map.stroke();
    const step = Math.max(1, Math.floor(count / 3000));
    for (let i = 0; i < count; i += step) if (kind[i] !== JOINT) {
      const [x, y] = at0(i);
      map.fillStyle = paint(i); map.fillRect(x - 0.8, y - 0.8, 1.6, 1.6);
    }
    const [x, y] = at0(anchor);
    map.beginPath(); map.arc(x, y, 5, 0, 7); map.lineWidth = 2; map.strokeStyle = style("--accent"); map.stroke();
  };
  part("map").addEventListener("click", (event) => { // go to what lies there
    const box = part("map").getBoundingClientRect(), half = box.width / 2;
    const x = (event.clientX - box.left - half) / (half - 4), y = -(event.clientY - box.top - half) / (half - 4);
    let best = 0, least = Infinity;
    for (let i = 0; i < count; i++) if (kind[i] === NODE) {
      const far = (overviewPlaces[2 * i] - x) ** 2 + (overviewPlaces[2 * i + 1] - y) ** 2;
      if (far < least) { best = i; least = far; }
    }
    choose(best);
  });

  const ring = (i, tint) => {
    const [x, y] = onScreen(i);
    pen.beginPath(); pen.arc(x, y, Math.max(7, 34 * (1 - at[2 * i] ** 2 - at[2 * i + 1] ** 2)), 0, 7);
    pen.lineWidth = 2.5; pen.strokeStyle = tint; pen.stroke();
  };
  const cut = (i) => { // sheet and corner of a photo's small picture
    const number = picture[i] % data.perSheet;
    return [Math.floor(picture[i] / data.perSheet), (number % data.perRow) * data.cell,
      Math.floor(number / data.perRow) * data.cell];
  };
  const show = (i, x, y, side) => {
    const [sheet, left, top] = cut(i), image = sheets[sheet];
    if (!image.complete || !image.naturalWidth) return false;
    pen.drawImage(image, left, top, data.cell, data.cell, x - side / 2, y - side / 2, side, side);
    pen.lineWidth = 1.5; pen.strokeStyle = paint(i);
    pen.strokeRect(x - side / 2, y - side / 2, side, side);
    return true;
  };
  const disc = (i, x, y, half) => { // the photo in the middle of a branch
    const [sheet, left, top] = cut(i), image = sheets[sheet];
    if (!image.complete || !image.naturalWidth) return false;
    pen.save();
    pen.beginPath(); pen.arc(x, y, half, 0, 7); pen.clip();
    pen.drawImage(image, left, top, data.cell, data.cell, x - half, y - half, 2 * half, 2 * half);
    pen.restore();
    pen.beginPath(); pen.arc(x, y, half, 0, 7); pen.lineWidth = 2.5; pen.strokeStyle = paint(i); pen.stroke();
    return true;
  };
  const write = (labels, ink, paper, near) => {
    const taken = [];
    labels.sort((p, q) => q[4] - p[4]);
    pen.textBaseline = "middle"; pen.lineJoin = "round";
    for (const [i, x, y, dot] of labels.slice(0, 220)) {
      const points = Math.round(10 + 4.5 * near(i));
      pen.font = `${i === chosen ? "650 " : ""}${points}px system-ui, sans-serif`;
      const text = name[i].length > 34 ? name[i].slice(0, 32) + "…" : name[i];
      const wide = pen.measureText(text).width, right = x < width / 2 + 4;
      const beside = right ? x + dot + 4 : x - dot - 4 - wide;
      const left = Math.max(3, Math.min(width - wide - 3, beside)), box = [left - 2, y - points * 0.62, left + wide + 2, y + points * 0.62];
      if (taken.some((t) => box[0] < t[2] && box[2] > t[0] && box[1] < t[3] && box[3] > t[1])) continue;
      taken.push(box);
      pen.lineWidth = 3.5; pen.strokeStyle = paper; pen.strokeText(text, left, y);
      pen.fillStyle = ink; pen.fillText(text, left, y);
      if (taken.length > 70) break;
    }
  };

  // The panel ------------------------------------------------------------------------------------
  const solid = (i) => { do i = parent[i]; while (i > 0 && kind[i] === JOINT); return i; };
  const branches = (i) => children[i].flatMap((j) => (kind[j] === JOINT ? branches(j) : kind[j] === NODE ? [j] : []));
  const under = (i, most) => { // photos below that have pictures, spread over the branches
    const all = [], waiting = [i];
    while (waiting.length) {
      const j = waiting.pop();
      if (kind[j] === PHOTO && picture[j] >= 0) all.push(j);
      waiting.push(...children[j].slice().reverse());
    }
    const step = Math.max(1, all.length / most);
    return Array.from({ length: Math.min(most, all.length) }, (_, k) => all[Math.floor(k * step)]);
  };
  const make = (tag, text, on) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (on) made.addEventListener("click", on);
    return made;
  };
  const block = (title, kindOf, parts) => {
    if (!parts.length) return;
    const box = make("div"); box.className = kindOf; box.append(...parts);
    panel.append(make("h3", title), box);
  };
  const small = (i) => {
    const [sheet, left, top] = cut(i), button = make("button", undefined, () => choose(i));
    const tile = Object.assign(make("canvas"), { width: data.cell, height: data.cell });
    const put = () => tile.getContext("2d").drawImage(
      sheets[sheet], left, top, data.cell, data.cell, 0, 0, data.cell, data.cell);
    if (sheets[sheet].complete) put(); else sheets[sheet].addEventListener("load", put);
    button.title = `${name[i]} (${name[parent[i]]})`; button.setAttribute("aria-label", button.title);
    button.append(tile);
    return button;
  };
  function choose(i, flies = true) {
    chosen = i;
    const node = kind[i] === PHOTO ? parent[i] : i;
    panel.replaceChildren(make("h2", kind[i] === PHOTO ? name[i] : name[node]));
    const facts = make("dl"), add = (key, value) => facts.append(make("dt", key), make("dd", value));
    if (kind[i] === PHOTO) add("photo of", name[node]);
    else {
      add("contains", `${size[node]} ${data.counted}`);
      if (purity[node] !== null) add("purity", `${(100 * purity[node]).toFixed(0)} %`);
      if (radius[node] !== null) add("depth", radius[node].toFixed(2));
      add("id", data.places.id[node]);
    }
    panel.append(facts);
    const id = data.places.image?.[i];
    if (kind[i] === PHOTO && id && options.preview) {
      const large = Object.assign(make("img"), { src: options.preview(id), alt: name[node], className: "large" });
      panel.append(large, make("button", "Search for images like this", () => options.search(id)));
    } else if (kind[i] === PHOTO && picture[i] >= 0) block("Picture", "photos large", [small(i)]);
    const line = []; // from the root
    for (let j = i; j > 0;) line.unshift(j = solid(j));
    block("Path from the root", "steps", line.map((j) => make("button", name[j], () => choose(j))));
    const below = kind[i] === PHOTO ? [] : branches(node);
    block(`Branches (${below.length})`, "below", below.slice(0, 60).map((j) => make("button", `${name[j]} · ${size[j]}`, () => choose(j))));
    block(kind[i] === PHOTO ? "Photos of the same leaf" : "Photos", "photos", under(node, 24).map(small));
    told.textContent = `${kind[i] === PHOTO ? "photo " : ""}${name[i]}, ${size[node]} ${data.counted}, ${below.length} branches`;
    if (!options.embedded && i) history.replaceState(null, "", `#${encodeURIComponent(data.places.id[node])}`);
    options.onChoose?.(data.places.id[node]);
    if (flies) fly(i); else ask();
  }

  // Pointers: drag to pan, wheel or pinch to come nearer, click to bring to the middle ------------
  const pointers = new Map();
  let dragged = 0;
  const inDisk = (event) => {
    const box = canvas.getBoundingClientRect();
    let x = (event.clientX - box.left - width / 2) / reach, y = -(event.clientY - box.top - height / 2) / reach;
    const far = Math.hypot(x, y), most = 0.95;
    return far > most ? [(x * most) / far, (y * most) / far] : [x, y];
  };
  const drag = ([x, y], [u, v]) => { // the motion that takes one point of the disk to another
    const back = towards(x, y, -apart(x, y)), forth = towards(u, v, apart(u, v));
    move(compose(forth, back));
  };
  const hit = (event) => {
    const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let best = -1, least = 1;
    for (const i of drawn) if (kind[i] !== JOINT) {
      const [px, py] = onScreen(i), close = 1 - at[2 * i] ** 2 - at[2 * i + 1] ** 2;
      const wide = Math.max(kind[i] === PHOTO ? 5 : 9, (kind[i] === PHOTO ? 32 : 16) * close);
      const far = Math.hypot(px - x, py - y) / wide;
      if (far < least) { best = i; least = far; }
    }
    return best;
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return; // the menu of a right click would swallow what ends it
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, event); dragged = 0; flight = null;
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return point(event);
    if (!event.buttons && event.pointerType === "mouse") return pointers.delete(event.pointerId);
    const others = [...pointers.values()].filter((one) => one.pointerId !== event.pointerId);
    dragged += Math.hypot(event.clientX - before.clientX, event.clientY - before.clientY);
    if (others.length) { // two fingers: the gap between them
      const gap = (one) => Math.hypot(one.clientX - others[0].clientX, one.clientY - others[0].clientY);
      approach(inDisk(event), Math.log(gap(event) / Math.max(1, gap(before))) * 1.5);
    } else if (dragged > 4) { canvas.classList.add("moving"); drag(inDisk(before), inDisk(event)); }
    pointers.set(event.pointerId, event);
  });
  for (const ending of ["pointerup", "pointercancel"]) canvas.addEventListener(ending, (event) => {
    pointers.delete(event.pointerId); canvas.classList.remove("moving");
    if (ending === "pointerup" && dragged <= 4) { const i = hit(event); if (i >= 0) choose(i); }
  });
  const approach = ([x, y], by) => { // nearer to a place; or back towards the root
    if (by > 0) return move(towards(x, y, -Math.min(by, apart(x, y))));
    let root = anchor; // or the node nearest to it that is not too far away
    while (root && frameOf(parent[root])) root = parent[root];
    const [u, v] = middle(frameOf(root));
    move(towards(u, v, Math.max(by, -apart(u, v))));
  };
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault(); flight = null;
    approach(inDisk(event), Math.max(-0.6, Math.min(0.6, -event.deltaY * (event.deltaMode ? 0.05 : 0.003))));
  }, { passive: false });
  const point = (event) => {
    const i = hit(event);
    if (i !== hovered) { hovered = i; ask(); }
    tip.style.display = i < 0 ? "none" : "block";
    if (i < 0) return;
    tip.textContent = kind[i] === PHOTO ? `${name[i]} · ${name[parent[i]]}` : `${name[i]} · ${size[i]} ${data.counted}`;
    const box = canvas.getBoundingClientRect();
    tip.style.left = `${Math.min(event.clientX - box.left + 14, width - 180)}px`;
    tip.style.top = `${event.clientY - box.top + 14}px`;
  };
  canvas.addEventListener("pointerleave", () => { hovered = -1; tip.style.display = "none"; ask(); });

  // Keys -----------------------------------------------------------------------------------------
  const sideways = (by) => {
    if (!chosen) return;
    const row = kind[chosen] === PHOTO ? children[parent[chosen]] : branches(solid(chosen));
    choose(row[(row.indexOf(chosen) + by + row.length) % row.length]);
  };
  const keys = {
    ArrowUp: () => chosen && choose(solid(chosen)),
    ArrowDown: () => { const below = branches(chosen)[0] ?? children[chosen].find((j) => kind[j] === PHOTO); if (below) choose(below); },
    ArrowLeft: () => sideways(-1), ArrowRight: () => sideways(1),
    Home: () => choose(0), Enter: () => fly(chosen),
    "+": () => approach(middle(frameOf(chosen) ?? frame), 0.5), "-": () => approach([0, 0], -0.5),
  };
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault(); keys[event.key]();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== query) { event.preventDefault(); query.focus(); query.select(); }
  });

  // Search ---------------------------------------------------------------------------------------
  let picked = 0;
  const plain = (text) => text.toLowerCase().replace(/[_-]+/g, " ");
  const names = name.map(plain);
  const look = () => {
    const wanted = plain(query.value.trim()), hits = [];
    const fits = (i) => names[i].includes(wanted) || data.places.id[i] === query.value.trim();
    for (const sort of [NODE, PHOTO]) for (let i = 0; wanted && i < count; i++)
      if (kind[i] === sort && fits(i) && (hits.length < 200 || names[i] === wanted)) hits.push(i);
    const rank = (i) => (names[i] === wanted ? -9 : 0) + (kind[i] === PHOTO ? 4 : 0) + (children[i].some((j) => kind[j] !== PHOTO) ? 2 : 0) + (names[i].startsWith(wanted) ? 0 : 1);
    hits.sort((p, q) => rank(p) - rank(q));
    picked = 0;
    found.replaceChildren(...hits.slice(0, 30).map((i, place) => {
      const line = make("li", name[i], () => take(i));
      line.id = `found${place}`; line.dataset.place = i;
      line.setAttribute("role", "option"); line.setAttribute("aria-selected", place === 0);
      line.append(" ", make("small", kind[i] === PHOTO ? `photo of ${name[parent[i]]}` : `${size[i]} ${data.counted}`));
      return line;
    }));
    if (wanted && !hits.length) found.append(make("li", "nothing has that in its name"));
    query.setAttribute("aria-expanded", hits.length > 0);
    query.setAttribute("aria-activedescendant", hits.length ? "found0" : "");
  };
  const take = (i) => { found.replaceChildren(); query.setAttribute("aria-expanded", false); choose(i); canvas.focus(); };
  query.addEventListener("input", look);
  query.addEventListener("blur", () => setTimeout(() => found.replaceChildren(), 150));
  query.addEventListener("keydown", (event) => {
    const lines = [...found.querySelectorAll("[data-place]")];
    if (event.key === "Escape") { query.value = ""; look(); canvas.focus(); }
    else if (event.key === "Enter" && lines[picked]) take(Number(lines[picked].dataset.place));
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!lines.length) return;
      picked = (picked + (event.key === "ArrowDown" ? 1 : -1) + lines.length) % lines.length;
      lines.forEach((line, place) => line.setAttribute("aria-selected", place === picked));
      lines[picked].scrollIntoView({ block: "nearest" });
      query.setAttribute("aria-activedescendant", lines[picked].id);
    }
  });

  // Buttons, colours, size -----------------------------------------------------------------------
  part("home").addEventListener("click", () => choose(0));
  part("nearer").addEventListener("click", () => keys["+"]());
  part("back").addEventListener("click", () => keys["-"]());
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = (value) => { document.documentElement.dataset.theme = value; legend(); ask(); };
  part("theme")?.addEventListener("click", () =>
    theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  if (!options.embedded) dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
  const legend = () => {
    const line = (tint, text) => {
      const made = make("li"), dot = make("i");
      dot.style.background = tint; made.append(dot, text);
      return made;
    };
    const [low, high] = bounds[colouring] ?? [0, 1];
    part("legend").replaceChildren(...(colouring === "branch"
      ? data.groups.map(([tint, text]) => line(data.colours[tint], text))
      : [0, 0.5, 1].map((share) => line(mix(share), `${colouring} ${(low + share * (high - low)).toFixed(2)}`))));
  };
  part("colouring").addEventListener("change", (event) => {
    colouring = event.target.value; legend(); ask();
  });
  new ResizeObserver(() => {
    width = stage.clientWidth; height = stage.clientHeight; reach = Math.max(60, Math.min(width, height) / 2 - 14);
    canvas.width = width * devicePixelRatio; canvas.height = height * devicePixelRatio;
    ask();
  }).observe(stage);
  if (options.embedded) legend(); else theme(dark.matches ? "dark" : "light");
  choose(0, false);
  const linked = decodeURIComponent(location.hash.replace(/^#/, ""));
  const named = options.embedded ? -1 : data.places.id.indexOf(linked || "\0");
  if (named > 0) { chosen = named; choose(named, false); jump(named); }
  // For tests, and for pages that show the tree beside other things.
  const byImage = (id) => (data.places.image ?? []).findIndex((own, i) => own === id && kind[i] === PHOTO);
  return {
    choose, ask, byImage, repaint: () => { legend(); ask(); },
    byName: (text) => data.places.id.indexOf(text),
    frames: () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))),
    state: () => ({ chosen, name: name[chosen], at: middle(frameOf(chosen) ?? [NaN, 0, 0, 0]), flying: flight !== null, seen: drawn.length, pictures: shown.length }),
    where: (i) => { const [x, y] = onScreen(i), box = canvas.getBoundingClientRect(); return [x + box.left, y + box.top]; },
  };
};
