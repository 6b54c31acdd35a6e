// The page of the stats port. It shows what /events says, once a second, and never changes anything.
// Names and samples come from strangers: everything is put in as text, never as HTML.
"use strict";

const $ = (id) => document.getElementById(id);
const HISTORY_SECONDS = 900;

// === Words ===

const number = (n) => Number(n).toLocaleString("en");

function rate(n) {
  if (!isFinite(n)) return "…";
  return n >= 100 ? number(Math.round(n)) : n.toFixed(1);
}

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (n >= 1024 && at < units.length - 1) { n /= 1024; at += 1; }
  return `${n.toFixed(at === 0 ? 0 : 1)} ${units[at]}`;
}

function duration(seconds) {
  if (!isFinite(seconds)) return "never";
  const s = Math.max(0, Math.round(seconds));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} days`;
}

const count = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;

const ago = (time, now) => (time ? `${duration(now - time)} ago` : "never");

// === Building ===

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// The help of a figure shows on hover and on focus, so that a keyboard reaches it too.
function helped(tag, text, help) {
  return element(tag, text, { "data-help": help, tabindex: "0" });
}

function fill(list, rows) {
  const focused = [...list.children].indexOf(document.activeElement);
  const parts = rows.flatMap(([term, text, help, mood]) => {
    const value = element("dd", text);
    if (mood) value.className = mood;
    return [helped("dt", term, help), value];
  });
  list.replaceChildren(...parts);
  if (focused >= 0) list.children[focused]?.focus({ preventScroll: true });
}

// === Rates ===

let before = null;

function per(seconds, now, then) {
  return seconds > 0 ? Math.max(0, now - then) / seconds : NaN;
}

function rates(view) {
  const at = view.time_ms / 1000;
  const now = {
    at,
    received: view.datapoints.received,
    delivered: view.datapoints.delivered,
    settled: view.datapoints.delivered + view.datapoints.refused + view.datapoints.dropped,
    spooled: view.datapoints.in_spool,
    listeners: Object.fromEntries(view.listeners.map((one) => [one.endpoint, one.datapoints])),
  };
  const then = before ?? now;
  before = now;
  const seconds = now.at - then.at;
  return {
    received: per(seconds, now.received, then.received),
    delivered: per(seconds, now.delivered, then.delivered),
    stored: per(seconds, now.spooled + now.settled, then.spooled + then.settled),
    listeners: Object.fromEntries(
      Object.entries(now.listeners).map(([name, n]) => [name, per(seconds, n, then.listeners[name] ?? n)]),
    ),
  };
}

// === Plots ===

let history = [];

function plot(title, values, help) {
  const svgNS = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(svgNS, "svg");
  svg.setAttribute("viewBox", `0 0 ${HISTORY_SECONDS} 100`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const most = Math.max(1, ...values);
  svg.setAttribute("aria-label", `${title}: now ${rate(values.at(-1) ?? 0)}, at most ${rate(most)}`);
  const path = document.createElementNS(svgNS, "path");
  const left = HISTORY_SECONDS - values.length;
  path.setAttribute("d", values.map((v, i) => `${i ? "L" : "M"}${left + i} ${97 - (v / most) * 94}`).join(""));
  svg.append(path);
  const figure = document.createElement("figure");
  const caption = helped("figcaption", `${title} — now ${rate(values.at(-1) ?? 0)}, at most ${rate(most)}`, help);
  figure.append(svg, caption);
  return figure;
}

function plots() {
  const steps = history.slice(1).map((point, i) => ({
    received: per((point[0] - history[i][0]) / 1000, point[1], history[i][1]),
    delivered: per((point[0] - history[i][0]) / 1000, point[2], history[i][2]),
    buffered: point[3],
  }));
  const of = (key) => steps.map((step) => step[key] || 0);
  $("plots").replaceChildren(
    plot("received per second", of("received"), "Datapoints decoded from all senders, per second."),
    plot("delivered per second", of("delivered"), "Datapoints that Blueflood answered for, per second."),
    plot("buffered", of("buffered"), "Datapoints held here. It grows while Blueflood takes less than comes in."),
  );
}

// === The page ===

function showHealth(view) {
  const health = $("health");
  const wrong = view.wrong;
  const closed = !view.forwarder.gate.open;
  health.className = wrong.length || closed ? "bad" : "good";
  health.textContent = wrong.length
    ? wrong.join("; ")
    : closed
      ? `Blueflood does not take metrics (${view.forwarder.gate.cause}): they are kept`
      : `all is well, up for ${duration(view.uptime_s)}`;
}

function showFlow(view, speed) {
  const connections = view.listeners.reduce((sum, one) => sum + one.connections, 0);
  $("version").textContent = view.version;
  $("flow-listeners").textContent = count(connections, "connection");
  $("flow-collector").textContent = `${number(view.datapoints.in_hand)} in hand`;
  $("flow-spool").textContent = `${number(view.datapoints.in_spool)} kept`;
  const gate = view.forwarder.gate;
  $("flow-blueflood").textContent = gate.open ? "takes metrics" : `down: ${gate.cause}`;
  $("flow-blueflood").className = gate.open ? "good" : "bad";
  $("rate-received").textContent = `${rate(speed.received)}/s`;
  $("rate-stored").textContent = `${rate(speed.stored)}/s`;
  $("rate-delivered").textContent = `${rate(speed.delivered)}/s`;

  const d = view.datapoints;
  const law = $("law");
  law.textContent =
    `received ${number(d.received)} = skipped ${number(d.skipped)} + buffered ${number(d.buffered)} + ` +
    `delivered ${number(d.delivered)} + refused ${number(d.refused)} + dropped ${number(d.dropped)} ` +
    `(unaccounted ${number(d.unaccounted)})`;
  law.className = d.unaccounted === 0 ? "" : "bad";
}

function showListeners(view, speed) {
  const rows = view.listeners.map((one) => {
    const row = document.createElement("tr");
    const malformed = Object.entries(one.malformed).map(([reason, bad]) =>
      `${reason}: ${number(bad.count)}` + (bad.last ? `, the last from ${bad.last.peer}: ${bad.last.sample}` : ""),
    );
    if (one.kernel_drops) malformed.push(`dropped by the kernel: ${number(one.kernel_drops)}`);
    const cells = [one.endpoint, one.protocol, number(one.connections), rate(speed.listeners[one.endpoint]), number(one.datapoints), malformed.join("; ") || "none"];
    row.append(...cells.map((text) => element("td", text)));
    row.firstChild.className = "name";
    return row;
  });
  $("listeners").replaceChildren(...rows);
}

function showForwarder(view, now) {
  const f = view.forwarder;
  fill($("forwarder"), [
    ["gate", f.gate.open ? "open" : `closed: ${f.gate.cause}; next try in ${duration(f.gate.next_try_in_s)}`, "Whether requests may leave. A failure closes it; after a pause one request probes.", f.gate.open ? "good" : "bad"],
    ["in flight", `${f.in_flight} of ${f.concurrency}`, "Requests under way, and how many may be at once now."],
    ["set aside", number(f.set_aside), "Payloads that wait by themselves for another try."],
    ["requests", `${number(f.posts)}, of them ${number(f.retries)} again`, "Requests that came to an end, and how many were a second or later try."],
    ["sent", bytes(f.bytes_sent), "Bytes of all request bodies, as they were sent."],
    ["last success", ago(f.last_success, now), "When Blueflood last took a payload."],
    ["last error", f.last_error ? `${f.last_error.text}, ${ago(f.last_error.time, now)}` : "none", "The last answer that was none, or no good one."],
  ]);
}

function showSpool(view, now, speed) {
  const s = view.spool;
  const growth = speed.stored - speed.delivered;
  const perRow = view.datapoints.in_spool > 0 ? s.used_bytes / view.datapoints.in_spool : NaN;
  const full = growth > 0 ? (s.bytes_max - s.used_bytes) / (growth * perRow) : Infinity;
  const caughtUp = growth < 0 ? view.datapoints.in_spool / -growth : view.datapoints.in_spool === 0 ? 0 : Infinity;
  fill($("spool"), [
    ["in use", `${bytes(s.used_bytes)} of ${bytes(s.bytes_max)}`, "Bytes of the file in use, and its cap (--spool_max)."],
    ["oldest", ago(s.oldest_time, now).replace("never", "nothing waits"), "How long the oldest datapoint has been waiting."],
    ["full in", duration(full), "At the rates of this second."],
    ["caught up in", duration(caughtUp), "At the rates of this second."],
    ["blocked", s.blocked ?? "no", "Why it takes nothing now, so that senders wait.", s.blocked ? "bad" : ""],
    ["dead letters", bytes(s.dead_letter_bytes), "Datapoints that Blueflood refused: see `blueflood-forward dead-letters list`."],
  ]);
}

function showKeystone(view) {
  const k = view.keystone;
  $("keystone-section").hidden = !k;
  if (k) fill($("keystone"), Object.entries(k).map(([name, value]) => [name.replaceAll("_", " "), String(value ?? "none"), "From KeystoneAuth, which renews the token."]));
}

// The last of what Blueflood refused for a reason, or of what an endpoint skipped.
function lastOf(view, place, reason) {
  const now = view.time_ms / 1000;
  if (place === "refused") {
    const last = view.last_refused[reason];
    return last ? `, the last ${ago(last.time, now)}: ${last.row} (${last.message})` : "";
  }
  const samples = view.listeners.flatMap((one) => one[place]?.[reason]?.last ? [{ ...one[place][reason].last, endpoint: one.endpoint }] : []);
  const last = samples.sort((a, b) => a.time - b.time).at(-1);
  return last ? `, the last ${ago(last.time, now)} at ${last.endpoint} from ${last.peer}: ${last.sample}` : "";
}

function showRest(view) {
  fill($("actors"), Object.entries(view.actors).map(([name, a]) =>
    [name.replace("listener ", ""), `${a.answers ? "answers" : "does not answer"}, ${count(a.restarts, "restart")}`, "An actor that stops or panics is started again, and loses nothing.", a.answers ? "" : "bad"]));
  const reasons = ["refused", "skipped", "dropped", "malformed"].flatMap((place) =>
    Object.entries(view[place]).map(([reason, n]) => [`${place}: ${reason}`, number(n) + lastOf(view, place, reason), `See "Where each datapoint is" in the README for ${place}.`]));
  fill($("reasons"), reasons.length ? reasons : [["none", "", "Everything that came could be forwarded."]]);
}

function showSettings(settings) {
  const rows = settings.map((one) => {
    const row = document.createElement("tr");
    row.append(...[one.key, one.value, one.origin].map((text) => element("td", text)));
    return row;
  });
  $("settings").replaceChildren(...rows);
}

function show(view) {
  const speed = rates(view);
  const now = view.time_ms / 1000;
  history.push([view.time_ms, view.datapoints.received, view.datapoints.delivered, view.datapoints.buffered]);
  history = history.slice(-HISTORY_SECONDS);
  showHealth(view);
  showFlow(view, speed);
  showListeners(view, speed);
  showForwarder(view, now);
  showSpool(view, now, speed);
  showKeystone(view);
  showRest(view);
  plots();
  document.body.dataset.updates = String(Number(document.body.dataset.updates ?? 0) + 1);
}

// === Help on hover and focus ===

function offerHelp() {
  const box = element("div", "", { id: "help", role: "tooltip" });
  box.hidden = true;
  document.body.append(box);
  const reveal = (event) => {
    const target = event.target.closest?.("[data-help]");
    if (!target) return;
    box.textContent = target.dataset.help;
    box.hidden = false;
    const place = target.getBoundingClientRect();
    box.style.left = `${Math.max(8, Math.min(place.left, innerWidth - box.offsetWidth - 8))}px`;
    const below = place.bottom + 6;
    box.style.top = `${below + box.offsetHeight < innerHeight ? below : Math.max(8, place.top - box.offsetHeight - 6)}px`;
  };
  const conceal = () => { box.hidden = true; };
  document.addEventListener("mouseover", reveal);
  document.addEventListener("mouseout", conceal);
  document.addEventListener("focusin", reveal);
  document.addEventListener("focusout", conceal);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") conceal(); });
  document.querySelectorAll("[data-help]").forEach((one) => one.setAttribute("tabindex", "0"));
}

async function start() {
  offerHelp();
  const asJson = async (path) => (await fetch(path)).json();
  history = (await asJson("/history")).points;
  showSettings((await asJson("/settings")).settings);
  const events = new EventSource("/events");
  events.onmessage = (event) => show(JSON.parse(event.data));
  events.onerror = () => {
    $("health").className = "bad";
    $("health").textContent = "the daemon does not answer: trying again";
  };
}

start().catch((error) => { $("health").className = "bad"; $("health").textContent = `this page failed: ${error}`; });
