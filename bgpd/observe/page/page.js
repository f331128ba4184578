// The looking glass: asks /api, draws, and asks again when /api/events says that something changed. Text of the node's
// goes into the page by textContent only.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const DAY = 86400;
let node = ""; // the one that is shown; "": the one that serves the page
let here = "";

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined).map((child) => child instanceof Node ? child : String(child)));
  return made;
}
const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const put = (id, ...children) => $(id).replaceChildren(...children);
const clock = (at) => new Date(at * 1000).toLocaleString();

function ago(at) {
  const seconds = Math.max(0, Date.now() / 1000 - at);
  for (const [unit, size] of [["d", DAY], ["h", 3600], ["m", 60]]) if (seconds >= 2 * size) return `${Math.floor(seconds / size)}${unit}`;
  return `${Math.floor(seconds)}s`;
}

async function ask(question, query = {}, of = node) {
  const words = new URLSearchParams(query).toString();
  const path = of && of !== here ? `/api/nodes/${encodeURIComponent(of)}/${question}` : `/api/${question}`;
  const response = await fetch(words ? `${path}?${words}` : path);
  const found = await response.json();
  if (!response.ok) throw new Error(found.error || response.statusText);
  return found;
}

// Status

function showStatus(found) {
  const up = `${found.peers_up} of ${found.peers_wanted} peers established`;
  const well = found.ready && !found.degraded.length;
  $("node").textContent = `on ${found.node}`;
  document.title = `bgpd on ${found.node}`;
  const verdict = $("verdict");
  verdict.className = well ? "good" : found.ready ? "warn" : "bad";
  verdict.textContent = `${found.ready ? (well ? "✓ ready" : "! ready, degraded") : "✗ not ready"}, ${up}`;
  const rows = [
    ["Version", `${found.version}, up ${ago(found.started)}`],
    ["AS and router id", `${found.asn ?? "unknown"}, ${found.router_id || "unknown"}`],
    ["Resources", Object.entries(found.datastore.resources).filter(([, n]) => n).map(([kind, n]) => `${n} ${kind}`).join(", ") || "none"],
    ...Object.entries(found.fib).map(([family, fib]) => [`Kernel, ${family}`,
      `${Object.values(fib.routes).reduce((a, b) => a + b, 0)} routes of ${fib.wanted} wanted, ${fib.pending} pending`]),
    ["Last change of routes", found.last_routes_change ? `${ago(found.last_routes_change)} ago` : "none"],
  ];
  const list = h("dl", {}, ...rows.flatMap(([name, text]) => [h("dt", {}, name), h("dd", {}, text)]));
  const checks = h("ul", { class: "legend", "aria-label": "Checks" }, ...found.checks.map((check) =>
    h("li", { class: check.ok ? "good" : "bad" }, `${check.ok ? "✓" : "✗"} ${check.name}`, check.detail ? `: ${check.detail}` : "")));
  const wrong = [...found.degraded, ...found.problems.filter((each) => !each.harmless).map((each) =>
    [each.source, each.path, each.message].filter(Boolean).join(": "))];
  put("status-body", checks, list, ...(wrong.length ? [h("h3", {}, `Problems (${wrong.length})`), h("ul", {}, ...wrong.map((text) => h("li", { class: "warn" }, text)))] : []));
}

// Peers

function timeline(peer, entries) {
  const width = 240, end = Date.now() / 1000, start = end - DAY;
  const mine = entries.filter((entry) => entry.peer === peer.id && (entry.event === "peer_up" || entry.event === "peer_down"));
  const bars = [];
  let up = mine.length ? mine[0].event === "peer_down" : peer.state === "established" && peer.since < start;
  let at = start, downs = 0;
  for (const entry of [...mine, { time: end, event: "" }]) {
    if (up) bars.push([at, entry.time]);
    if (entry.event) up = entry.event === "peer_up";
    if (entry.event === "peer_down") downs += 1;
    at = entry.time;
  }
  if (!mine.length && peer.state === "established" && peer.since >= start) bars.push([peer.since, end]);
  const x = (time) => Math.max(0, Math.min(width, (time - start) / DAY * width));
  const words = `${peer.id}: ${peer.state}; down ${downs} times in the last 24 hours`;
  return s("svg", { viewBox: `0 0 ${width} 14`, width, role: "img", "aria-label": words }, s("title", {}, words),
    s("rect", { class: "down", x: 0, y: 0, width, height: 14, rx: 3 }),
    ...bars.map(([from, to]) => s("rect", { class: "up", x: x(from), y: 0, width: Math.max(1, x(to) - x(from)), height: 14 })));
}

function showPeers(peers, entries) {
  const total = (peer, key) => Object.values(peer.counts).reduce((sum, counts) => sum + counts[key], 0);
  const rows = peers.map((peer) => {
    const up = peer.state === "established";
    return h("tr", {}, h("th", { scope: "row" }, peer.id, h("div", { class: "dim" }, `${peer.address} AS ${peer.asn}`)),
      h("td", { class: up ? "good" : "bad" }, `${up ? "✓" : "✗"} ${peer.state.replaceAll("_", " ")}`, h("div", { class: "dim" }, `${ago(peer.since)}`)),
      h("td", { class: "number" }, total(peer, "received")), h("td", { class: "number" }, total(peer, "advertised")),
      h("td", {}, timeline(peer, entries)), h("td", {}, up ? "" : peer.last_error || peer.last_down));
  });
  const head = ["Peer", "State", "Received", "Advertised", "Last 24 h", "Why"].map((text) => h("th", { scope: "col" }, text));
  put("peers-body", rows.length ? h("table", {}, h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...rows)) : h("p", {}, "No peers."));
}

// Blocks

const MOST_CELLS = 1024;
const WORDS = { own: "ours", lent: "lent to", borrowed: "borrowed of", other: "of" };

function blockMap(block) {
  const used = new Map(block.used.map((each) => [each.offset, each]));
  const cells = Math.min(block.size, MOST_CELLS), across = Math.min(32, cells), size = 18;
  const words = `${block.cidr}: ${block.used.length} of ${block.size} addresses used`;
  const drawing = s("svg", { viewBox: `0 0 ${across * size} ${Math.ceil(cells / across) * size}`, width: across * size, role: "img", "aria-label": words });
  for (let offset = 0; offset < cells; offset += 1) {
    const each = used.get(offset);
    drawing.append(s("rect", { class: each ? each.state : "free", x: (offset % across) * size + 1, y: Math.floor(offset / across) * size + 1, width: size - 3, height: size - 3, rx: 3 },
      s("title", {}, each ? `${each.address} ${each.owner} on ${each.node}` : `+${offset} free`)));
  }
  const list = h("ul", {}, ...block.used.map((each) => h("li", {}, h("span", { class: "mono" }, each.address),
    ` ${each.owner}`, each.state === "own" ? "" : ` (${WORDS[each.state]} ${each.state === "borrowed" ? block.owner || "nobody" : each.node})`)));
  return h("article", {}, h("h3", {}, h("span", { class: "mono" }, block.cidr), ` ${block.own ? "of this node" : `of ${block.owner || "nobody"}`}, ${block.used.length} of ${block.size} used`),
    drawing, block.used.length ? h("details", {}, h("summary", {}, "Addresses"), list) : "");
}

const showBlocks = (maps) => put("blocks-body", ...(maps.length ? maps.map(blockMap) : [h("p", {}, "No blocks: none is ours, lent or borrowed of.")]));

// Why

const STAGES = ["origin", "heard", "import", "decision", "next hop", "kernel", "export", "advertised"];

function lines(text, most, rows) {
  const found = [];
  let line = "";
  for (const word of text.split(" ").flatMap((each) => each.match(new RegExp(`.{1,${most}}`, "gu")) ?? [])) {
    if (line && line.length + word.length >= most) { found.push(line); line = word; } else line = line ? `${line} ${word}` : word;
  }
  found.push(line);
  return found.length > rows ? [...found.slice(0, rows - 1), `${found[rows - 1].slice(0, most - 1)}…`] : found;
}

function chain(boxes, words) {
  // Boxes from left to right, as many in a row as there is room for.
  const width = 230, gap = 36, height = 118;
  const room = Math.max(1, Math.floor((Math.min(document.body.clientWidth, 1216) - 32 + gap) / (width + gap)));
  const across = Math.min(room, boxes.length), down = Math.ceil(boxes.length / across);
  const drawing = s("svg", { viewBox: `0 0 ${across * (width + gap) - gap} ${down * (height + 30)}`, width: across * (width + gap) - gap, role: "img", "aria-label": words }, s("title", {}, words));
  boxes.forEach((box, number) => {
    const x = (number % across) * (width + gap), y = Math.floor(number / across) * (height + 30) + 4;
    if (number % across) drawing.append(s("path", { class: "wire", d: `M${x - gap} ${y + height / 2} h${gap - 2} m-8 -5 l8 5 l-8 5` }));
    else if (number) drawing.append(s("path", { class: "wire", d: `M${width / 2} ${y - 30} v28 m-5 -8 l5 8 l5 -8` }));
    drawing.append(s("rect", { class: `box ${box.ok ? "good" : "bad"}`, x: x + 1, y, width: width - 2, height, rx: 8 }),
      s("text", { class: "dim", x: x + 12, y: y + 20 }, `${box.ok ? "✓" : "✗"} ${box.title}`),
      ...lines(box.text, 28, 5).map((text, row) => s("text", { x: x + 12, y: y + 40 + row * 17 }, text)));
  });
  return drawing;
}

function explained(one) {
  const stages = STAGES.map((stage) => [stage, one.steps.filter((step) => step.stage === stage)]).filter(([, steps]) => steps.length);
  const boxes = stages.map(([stage, steps]) => {
    const shown = steps.find((step) => step.ok) ?? steps[0];
    const more = steps.length > 1 ? ` (and ${steps.length - 1} more)` : "";
    return { title: stage, text: shown.text + more, ok: shown.ok };
  });
  return h("article", {}, h("h3", {}, h("span", { class: "mono" }, one.prefix), `: ${one.verdict}`),
    chain(boxes, `${one.prefix}: ${one.verdict}`),
    h("details", {}, h("summary", {}, "Every step"), h("ol", { class: "steps" }, ...one.steps.map((step) =>
      h("li", { class: step.ok ? "" : "bad" }, `${step.ok ? "✓" : "✗"} ${step.stage}: ${step.text}`)))));
}

async function why(target) {
  try {
    const { explanations } = await ask("why", { target });
    put("why-body", ...(explanations.length ? explanations.map(explained) : [h("p", { class: "warn" }, `Nothing is known of ${target}.`)]));
  } catch (error) {
    put("why-body", h("p", { class: "bad" }, error.message));
  }
}

// Trace: from node to node, by the route that each kernel follows.

async function trace(from, target) {
  const boxes = [], passed = new Set();
  let at = from, end = "";
  try {
    while (at && !passed.has(at) && passed.size < 16) {
      passed.add(at);
      const [{ explanations }, { peers }, { routes }] = await Promise.all([
        ask("why", { target }, at), ask("peers", {}, at), ask("routes", { table: "fib", prefix: target }, at)]);
      const route = routes.find((row) => row.best);
      const own = explanations.find((one) => one.steps.some((step) => step.stage === "origin" && step.ok));
      const next = (route?.next_hop ?? "").split(", ")[0];
      if (!route || route.kind === "blackhole" || !next) {
        boxes.push({ title: at, text: own ? `${own.prefix}: ${own.verdict}` : route ? `${route.prefix} ${route.detail}` : "no route of bgpd's", ok: Boolean(own) });
        end = own ? `${target} is reached on ${at}` : `${target} is not reached: it ends on ${at}`;
        break;
      }
      boxes.push({ title: at, text: `${route.prefix} ${route.detail}`, ok: true });
      const peer = peers.find((each) => each.address === next && each.source.startsWith("Node "));
      at = peer ? peer.source.slice(5) : "";
      if (!at) { boxes.push({ title: next, text: "no node of web.nodes: the way goes on outside", ok: true }); end = `${target} is left to ${next}`; }
      else if (passed.has(at)) { boxes.push({ title: at, text: "was here already: a loop", ok: false }); end = "The way is a loop."; }
    }
  } catch (error) {
    boxes.push({ title: at, text: error.message, ok: false });
    end = `${at} cannot say how it goes on.`;
  }
  put("trace-body", h("p", {}, end), chain(boxes, end), h("ol", { class: "steps" }, ...boxes.map((box) => h("li", { class: box.ok ? "" : "bad" }, `${box.title}: ${box.text}`))));
}

// History

function showHistory(entries) {
  const width = 1200, end = Date.now() / 1000, first = Math.max(end - DAY, entries.length ? entries[0].time : end - 3600);
  const x = (time) => 6 + (time - first) / Math.max(1, end - first) * (width - 12);
  const ROWS = { info: 12, warning: 30, error: 48 };
  const words = `${entries.length} entries since ${clock(first)}`;
  const drawing = s("svg", { viewBox: `0 0 ${width} 60`, width, role: "img", "aria-label": words }, s("title", {}, words),
    ...Object.values(ROWS).map((y) => s("path", { class: "wire", "stroke-opacity": 0.3, d: `M0 ${y} h${width}` })),
    ...entries.filter((entry) => entry.time >= first).map((entry) => s("circle", { class: entry.level, cx: x(entry.time), cy: ROWS[entry.level] ?? 12, r: 4 }, s("title", {}, `${clock(entry.time)} ${entry.event}`))));
  const shown = entries.slice(-200).reverse().map(({ time, event, level, ...fields }) => h("li", {}, h("time", { class: "dim", datetime: new Date(time * 1000).toISOString() }, clock(time)), " ",
    h("strong", { class: level === "error" ? "bad" : level === "warning" ? "warn" : "" }, event), " ",
    Object.entries(fields).map(([key, value]) => `${key}=${Array.isArray(value) ? value.join(",") : value}`).join(" ")));
  put("history-body", h("p", { class: "dim" }, words), drawing, h("ol", { class: "log", tabindex: 0, "aria-label": "Entries, the newest first" }, ...shown));
}

// All of it

// The history is read from the node's disk, so it is not asked for with each change.
const HISTORY_EVERY = 30;
let kept = { at: 0, entries: [] };
async function recent() {
  const now = Date.now() / 1000;
  if (now >= kept.at + HISTORY_EVERY) kept = { at: now, entries: (await ask("history", { since: (now - DAY).toFixed(0), most: 1000 })).entries };
  return kept;
}

let asking = false, again = false;
async function refresh() {
  if (asking) { again = true; return; }
  asking = true;
  try {
    const [status, { peers }, { maps }, { entries }] = await Promise.all([ask("status"), ask("peers"), ask("map"), recent()]);
    showStatus(status); showPeers(peers, entries); showBlocks(maps); showHistory(entries);
    $("error").hidden = true;
  } catch (error) {
    $("error").textContent = `${node || "This node"} cannot be shown: ${error.message}`;
    $("error").hidden = false;
  }
  asking = false;
  if (again) { again = false; await refresh(); }
}

function choose() {
  const words = new URLSearchParams(location.search);
  return [words.get("node") ?? "", words.get("why") ?? ""];
}

async function begin() {
  const list = await ask("nodes", {}, "");
  here = list.node;
  if (list.nodes.length) {
    const all = [...new Set([here, ...list.nodes])];
    for (const id of ["nodes", "from"]) put(id, ...all.map((name) => h("option", { value: name }, name)));
    for (const id of ["choose", "to-trace", "trace-section"]) $(id).hidden = false;
  }
  let target;
  [node, target] = choose();
  if (node) $("nodes").value = node;
  $("target").value = target;
  await refresh();
  if (target) await why(target);
  const events = new EventSource("/api/events");
  events.onmessage = () => refresh();
  events.onerror = () => { $("error").textContent = "This node does not answer; the page follows again when it does."; $("error").hidden = false; };
  events.onopen = () => { $("error").hidden = true; };
  if (node && node !== here) setInterval(refresh, 5000); // its stream is its own page's
}

$("why-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const words = new URLSearchParams(location.search);
  words.set("why", $("target").value.trim());
  history.replaceState(null, "", `?${words}#why`);
  why($("target").value.trim());
});
$("trace-form").addEventListener("submit", (event) => { event.preventDefault(); trace($("from").value, $("to").value.trim()); });
$("nodes").addEventListener("change", () => { location.search = `?node=${encodeURIComponent($("nodes").value)}`; });
begin().catch((error) => { $("error").textContent = error.message; $("error").hidden = false; });
