"use strict";
// The page of `hier serve`. What is shown is said by the address behind #, so that each state can
// be linked: #/ is the start, #/id/ID and #/text/WORDS are searches, #/tree/NODE is the tree, #/review
// the list of findings. An image that was given by hand is kept in memory: #/image.
(() => {
  const part = (id) => document.getElementById(id);
  const make = (tag, properties = {}, ...inside) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...inside);
    return made;
  };
  const soft = (text) => text.split(/(?<=[_./-])/).flatMap((piece, place) => (place ? [make("wbr"), piece] : [piece]));
  const STEP = 24;
  let facts = null, index = "", given = null, hits = [], viewed = -1, tree = null, treeOf = "", turn = 0, treeTurn = 0, reviewTurn = 0;
  let review = null, reviewOf = "";
  const query = (values) => {
    const made = new URLSearchParams(values);
    if (facts && facts.indexes.length > 1) made.set("index", index);
    return made;
  };
  const picture = (id, size = "preview") => `api/images/${id}?${query({ size })}`;

  // Asking -----------------------------------------------------------------------------------------
  const say = (text) => { part("failed").textContent = text; part("failed").hidden = !text; };
  const answerOf = async (response) => {
    const told = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(told.error?.message ?? `The server answered ${response.status}.`);
    return told;
  };
  // What takes long is asked for until it is there, or until nobody wants it any more.
  const made = async (what, isWanted, say) => {
    for (;;) {
      const response = await fetch(`api/${what}?${query({})}`), told = await answerOf(response);
      if (!isWanted()) return null;
      if (response.status !== 202) return told;
      say(`${told.step[0].toUpperCase()}${told.step.slice(1)} …`, told);
    }
  };
  const ask = async (body, type, k, more = {}) => {
    const mine = ++turn;
    part("answer").setAttribute("aria-busy", "true");
    say("");
    try {
      const response = await fetch(`api/search?${query({ k, ...more })}`, {
        method: "POST", body, headers: type ? { "content-type": type } : {},
      });
      const told = await answerOf(response);
      return mine === turn ? told : null;
    } catch (error) {
      if (mine === turn) say(error instanceof TypeError ? "The server cannot be reached." : error.message);
      return null;
    } finally {
      if (mine === turn) part("answer").setAttribute("aria-busy", "false");
    }
  };

  // Showing ----------------------------------------------------------------------------------------
  const percent = (share) => `${Math.floor(100 * share)} %`;
  const tile = (hit, open) => {
    const image = make("img", { src: picture(hit.id), alt: "", loading: "lazy", decoding: "async" });
    const button = make("button", { className: "hit", type: "button" }, image);
    image.addEventListener("error", () => button.classList.add("lost"));
    button.addEventListener("click", open);
    if (hit.label !== undefined) {
      const bar = make("b");
      bar.style.width = `${100 * hit.similarity}%`;
      button.append(make("i", { ariaHidden: "true" }, bar),
        make("span", { className: "label" }, ...soft(hit.label || "no label")),
        make("span", { className: "close", textContent: `${hit.similar}, ${percent(hit.similarity)}`,
          title: `100 % is the same image, 0 % the median distance of two images; hyperbolic distance ${hit.distance.toFixed(3)}` }));
    } else button.setAttribute("aria-label", "Search for images like this one");
    return make("div", { role: "listitem" }, button);
  };
  const describe = (told, source) => {
    const box = part("asked");
    box.replaceChildren();
    if (source) box.append(make("img", { src: source, alt: "The image that is searched for" }));
    const words = make("div");
    if (told.verdict) {
      words.append(make("h2", { textContent: told.verdict.text }));
      const line = make("ol", { ariaLabel: "What it may be, from the class upwards" });
      for (const kind of told.verdict.kinds.slice(told.verdict.kinds[0]?.name === told.verdict.name ? 1 : 0, 6))
        line.append(make("li", { textContent: `${kind.name} ${percent(kind.probability)}` }));
      words.append(line);
    } else if (told.understood) words.append(make("h2", { textContent: told.understood.text }));
    else words.append(make("h2", { textContent: "The nearest images" }));
    const place = make("button", { type: "button", textContent: "Show in the tree" });
    place.addEventListener("click", () => locate(place));
    if (!told.understood && told.results.length) words.append(place);
    box.append(words);
  };
  const locate = async (button) => { // the common ancestor of the query and its nearest image
    button.disabled = true;
    const told = await askAgain(1, { branches: 1, verdict: 0 });
    button.disabled = false;
    if (told) go("tree", told.results[0].branch.id);
  };
  const show = (told, source, k) => {
    document.body.classList.add("answered");
    describe(told, source);
    hits = told.results;
    part("hits").replaceChildren(...hits.map((hit, place) => tile(hit, () => view(place))));
    part("more").hidden = hits.length < k;
    part("examples").hidden = true;
    if (!hits.length) say("No images found. The index may be empty.");
  };
  const askAgain = (k, more) => { // what the address says
    const [kind, value] = state();
    if (kind !== "image") return ask(JSON.stringify({ [kind]: value }), "application/json", k, more);
    const form = new FormData();
    form.append("image", given.file, "image");
    return ask(form, "", k, more);
  };
  const search = async (k = STEP) => {
    const [kind, value] = state();
    if (!["id", "text"].includes(kind) && !(kind === "image" && given)) return start();
    if (kind === "text") part("words").value = value;
    const told = await askAgain(k);
    if (told) show(told, { image: given?.address, id: kind === "id" && picture(value) }[kind], k);
  };
  const start = () => {
    turn++;
    document.body.classList.remove("answered");
    part("asked").replaceChildren(); part("hits").replaceChildren();
    part("more").hidden = true; hits = [];
    const own = facts.indexes.find((one) => one.name === index);
    part("some").replaceChildren(...own.examples.map((id) => tile({ id }, () => go("id", id))));
    part("examples").hidden = !own.examples.length;
    part("invite").hidden = false;
    if (!own.takes_images) part("invite").textContent = "This index has no encoder: start from one of its images, or type words";
  };

  // Given images: dropped, pasted, chosen, photographed ----------------------------------------------
  const shrink = async (file) => { // a photo of 12 megapixels travels as one of 2
    try {
      const whole = await createImageBitmap(file), scale = 1600 / Math.max(whole.width, whole.height);
      if (scale >= 1 && file.size < 2e6) return file;
      const canvas = make("canvas", { width: Math.round(whole.width * Math.min(1, scale)), height: Math.round(whole.height * Math.min(1, scale)) });
      const pen = canvas.getContext("2d");
      pen.fillStyle = "#fff"; pen.fillRect(0, 0, canvas.width, canvas.height); // as transparency is read
      pen.drawImage(whole, 0, 0, canvas.width, canvas.height);
      return await new Promise((done) => canvas.toBlob((blob) => done(blob ?? file), "image/jpeg", 0.92));
    } catch { return file; } // the server knows more formats than browsers
  };
  const take = async (file) => {
    if (!file) return;
    if (given) URL.revokeObjectURL(given.address);
    const whole = file.size > 4e6 ? await shrink(file) : file;
    given = { file: whole, address: URL.createObjectURL(whole) };
    if (location.hash === "#/image") search(); else location.hash = "#/image";
  };
  for (const id of ["file", "camera"]) part(id).addEventListener("change", (event) => {
    take(event.target.files[0]); event.target.value = "";
  });
  part("drop").addEventListener("click", () => part("file").click());
  let depth = 0;
  addEventListener("dragenter", () => { depth++; document.body.classList.add("dragging"); });
  addEventListener("dragleave", () => { if (--depth <= 0) document.body.classList.remove("dragging"); });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault(); depth = 0; document.body.classList.remove("dragging");
    const file = [...event.dataTransfer.files][0];
    if (file) take(file); else say("Drop an image file. To search for an image of a page, save it first.");
  });
  addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files][0];
    if (file) { event.preventDefault(); take(file); }
  });
  part("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = part("words").value.trim();
    if (text) go("text", text); else part("words").focus();
  });
  part("more").addEventListener("click", () => search(hits.length + STEP));

  // One image --------------------------------------------------------------------------------------
  const view = (place) => {
    viewed = place;
    const hit = hits[place], rows = [
      ["rank", hit.rank], ["similarity", `${percent(hit.similarity)}, ${hit.similar}`],
      ["distance", hit.distance.toFixed(4)], ...Object.entries(hit.levels), ...(hit.path ? [["path", hit.path]] : []),
    ];
    part("picture").src = picture(hit.id);
    part("picture").alt = hit.label || "An image without a label";
    part("viewed").replaceChildren(...soft(hit.label || "no label"));
    part("facts").replaceChildren(...rows.flatMap(([key, value]) => [make("dt", { textContent: key }), make("dd", { textContent: value })]));
    part("original").hidden = !facts.shows_originals;
    part("original").href = picture(hit.id, "original");
    if (!part("viewer").open) part("viewer").showModal();
  };
  part("viewer").addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) { event.preventDefault(); view((viewed + by + hits.length) % hits.length); }
  });
  part("viewer").addEventListener("click", (event) => { if (event.target === part("viewer")) part("viewer").close(); });
  part("viewer").addEventListener("close", () => part("hits").children[viewed]?.firstChild.focus());
  part("like").addEventListener("click", () => { part("viewer").close(); go("id", hits[viewed].id); });
  part("place").addEventListener("click", () => { part("viewer").close(); go("tree", `image:${hits[viewed].id}`); });

  // The tree ---------------------------------------------------------------------------------------
  const grow = async (where) => {
    if (treeOf !== index) {
      const mine = ++treeTurn, wanted = index;
      part("growing").hidden = false; part("growing").textContent = "Building the tree …";
      part("disk-of-index").replaceChildren();
      try {
        const data = await made("tree", () => mine === treeTurn && wanted === index && state()[0] === "tree", (step) => part("growing").textContent = step);
        if (!data) return;
        part("growing").hidden = true;
        tree = hierTree(part("disk-of-index"), data, {
          embedded: true, preview: picture, search: (id) => go("id", id),
          onChoose: (node) => history.replaceState(null, "", node ? `#/tree/${encodeURIComponent(node)}` : location.hash),
        });
        treeOf = index;
      } catch (error) {
        if (mine === treeTurn) part("growing").textContent = error.message;
        return;
      }
    }
    const place = where.startsWith("image:") ? tree.byImage(where.slice(6)) : where ? tree.byName(where) : -1;
    if (place >= 0) tree.choose(place); else tree.ask();
    if (where && place < 0) say("This image is not among those that the tree shows.");
  };

  // The review -------------------------------------------------------------------------------------
  const finding = async () => {
    if (reviewOf === index) return;
    const mine = ++reviewTurn, wanted = index;
    review?.close(); review = null;
    part("review-of-index").replaceChildren(); part("reviewing").hidden = false; part("far").hidden = false;
    try {
      const data = await made("review", () => mine === reviewTurn && wanted === index && state()[0] === "review", (step, told) => {
        part("step").textContent = step;
        if (told.total) Object.assign(part("far"), { max: told.total, value: told.done });
        else part("far").removeAttribute("value");
      });
      if (data) found(data);
    } catch (error) {
      if (mine !== reviewTurn) return;
      part("step").textContent = error.message; part("far").hidden = true;
    }
  };
  const found = (data) => {
    part("reviewing").hidden = true;
    const root = make("div"), all = Object.values(data.counts).reduce((sum, one) => sum + one, 0);
    const left = all - data.findings.length;
    part("review-of-index").replaceChildren(root);
    review = hierReview(root, data, {
      embedded: true, notes: data.notes, link: (id) => `#/id/${id}`, picture: (id, size) => id && picture(id, size),
      note: left ? ` ${left.toLocaleString("en")} further findings are listed by hier review.` : "",
    });
    reviewOf = index;
  };

  // The address ------------------------------------------------------------------------------------
  const state = () => {
    const [kind = "", ...rest] = location.hash.replace(/^#\/?/, "").split("/");
    let value = rest.join("/");
    try { value = decodeURIComponent(value); } catch { /* as it is */ }
    return [kind, value];
  };
  const go = (kind, value) => {
    const wanted = `#/${kind}/${encodeURIComponent(value)}`;
    if (location.hash === wanted) route(); else location.hash = wanted;
  };
  const route = () => {
    const [kind, value] = state(), view = ["tree", "review"].includes(kind) ? kind : "search";
    say("");
    for (const [id, name] of [["search", "search"], ["treeview", "tree"], ["reviewview", "review"]]) part(id).hidden = name !== view;
    for (const link of document.querySelectorAll(".top nav a")) {
      const current = link.dataset.view === view;
      if (current) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
    }
    scrollTo(0, 0);
    if (view === "tree") grow(value); else if (view === "review") finding(); else search();
  };
  addEventListener("hashchange", route);
  addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
    if (event.key === "/" && !typing && !part("search").hidden) { event.preventDefault(); part("words").focus(); }
    const at = [...part("hits").children].indexOf(document.activeElement?.parentElement);
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (at >= 0 && by && !part("viewer").open) {
      event.preventDefault();
      part("hits").children[(at + by + hits.length) % hits.length].firstChild.focus();
    }
  });

  // Colours, and the start ---------------------------------------------------------------------------
  const keep = (key, value) => { try { return value === undefined ? localStorage.getItem(key) : localStorage.setItem(key, value); } catch { return null; } };
  const shade = (value) => { document.documentElement.dataset.theme = value; tree?.repaint(); };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  shade(keep("hier-theme") ?? (dark.matches ? "dark" : "light"));
  dark.addEventListener("change", () => { if (!keep("hier-theme")) shade(dark.matches ? "dark" : "light"); });
  part("shade").addEventListener("click", () => {
    const value = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    keep("hier-theme", value); shade(value);
  });
  part("snap").hidden = !matchMedia("(pointer: coarse)").matches;
  part("indexes").addEventListener("change", (event) => { index = event.target.value; route(); });
  (async () => {
    try {
      facts = await answerOf(await fetch("api/stats"));
    } catch (error) { return say(error.message); }
    index = facts.indexes[0].name;
    part("indexes").replaceChildren(...facts.indexes.map((one) =>
      make("option", { value: one.name, textContent: `${one.name} (${one.images.toLocaleString("en")})` })));
    part("which").hidden = facts.indexes.length < 2;
    document.title = `${index}: visual search with hier`;
    route();
    window.hier = { state: () => ({ hits, facts, index, tree, review }) }; // for tests
  })();
})();
