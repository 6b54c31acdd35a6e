// The page of the stats port. It shows what /events says, once a second, and never changes or judges anything: the verdict
// is the daemon's own. Names and samples come from strangers: everything is put in as text, never as HTML.
"use strict";

const $ = (id) => document.getElementById(id);
const HISTORY_SECONDS = 900;
const MOMENTS = 120;
const EXPIRES_SOON = 14 * 86400;
const svgNS = "http://www.w3.org/2000/svg";

// === Words ===

const number = (n) => Number(n).toLocaleString("en");

function rate(n) {
  if (!isFinite(n)) return "…";
  return `${n >= 10 || n === 0 ? number(Math.round(n)) : n.toFixed(1)}/s`;
}

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (n >= 1024 && at < units.length - 1) { n /= 1024; at += 1; }
  return `${n.toFixed(at === 0 ? 0 : 1)} ${units[at]}`;
}

function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} days`;
}

const count = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;
const ago = (time, now, never = "never") => (time ? `${duration(now - time)} ago` : never);

const EXACT = { second: "2-digit" };

// A time of day where the reader is, with its date if that is another.
function clock(seconds, now, more = {}) {
  const at = new Date(seconds * 1000);
  const time = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", ...more });
  return at.toDateString() === new Date(now * 1000).toDateString() ? time : `${at.toLocaleDateString()} ${time}`;
}

// === Building ===

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function drawn(tag, attributes, text = "") {
  const made = document.createElementNS(svgNS, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text) made.textContent = text;
  return made;
}

function say(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function fill(list, rows) {
  list.replaceChildren(...rows.flatMap(([term, text, help, mood]) => {
    const value = element("dd", text);
    if (mood) value.className = mood;
    return [element("dt", term, help ? { "data-help": help } : {}), value];
  }));
}

// === The verdict ===

const COLOURS = { well: "#1b7a43", keeping: "#c98a00", losing: "#d2601a", wrong: "#c62a20", gone: "#888888" };
const MARKS = { well: "", keeping: "⏸ ", losing: "⚠ ", wrong: "✖ ", gone: "? " };
let shownState = "";

// Title, icon and what a screen reader says change with the state, and not each second.
function showState(state, words, host) {
  if (state === shownState) return;
  shownState = state;
  document.title = `${MARKS[state]}${state} – blueflood-forward on ${host}`;
  const shape = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7" fill="${COLOURS[state]}"/></svg>`;
  $("icon").href = `data:image/svg+xml,${encodeURIComponent(shape)}`;
  say("spoken", `${state}: ${words}`);
}

function showVerdict(view, now) {
  const v = view.verdict;
  document.body.dataset.condition = v.condition;
  document.body.classList.remove("gone");
  say("condition", v.condition);
  say("health", v.words);
  const parts = [`since ${clock(v.since, now)} (${duration(now - v.since)})`];
  if (v.until) parts.push(`kept until ${clock(v.until.time, now)} (in ${duration(v.until.time - now)}), when ${v.until.by}`);
  if (v.caught_up) parts.push(`caught up by about ${clock(v.caught_up, now)}`);
  say("since", parts.join("; "));
  say("next", v.next ?? "");
  say("host", view.host);
  say("version", `${view.version}, up for ${duration(view.uptime_s)}`);
  say("url", view.forwarder.url);
  say("tenant", view.forwarder.tenant);
  say("clock", `at ${clock(now, now, { ...EXACT, timeZoneName: "short" })}`);
  showState(v.condition, v.words, view.host);
}

let lastNow = 0;

function showGone() {
  if (document.body.classList.contains("gone")) return;
  document.body.classList.add("gone");
  say("condition", "no answer");
  say("health", "the daemon does not answer: trying again");
  say("since", lastNow ? `these are its figures of ${clock(lastNow, Date.now() / 1000, EXACT)}` : "");
  say("next", "systemctl status blueflood-forward, or the log");
  showState("gone", "the daemon does not answer", $("host").textContent);
}

// === What was lost ===

// The last of what Blueflood refused for a reason, or of what an endpoint skipped.
function lastOf(view, place, reason, now) {
  if (place === "refused") {
    const last = view.last_refused[reason];
    return last ? `, the last ${ago(last.time, now)}: ${last.row} (${last.message})` : "";
  }
  const samples = view.listeners.flatMap((one) => one[place]?.[reason]?.last ? [{ ...one[place][reason].last, endpoint: one.endpoint }] : []);
  const last = samples.sort((a, b) => a.time - b.time).at(-1);
  return last ? `, the last ${ago(last.time, now)} at ${last.endpoint} from ${last.peer}: ${last.sample.slice(0, 120)}` : "";
}

function showLost(view, now) {
  const going = Object.fromEntries(view.verdict.losses.map((loss) => [`${loss.place} ${loss.reason}`, loss]));
  const reasons = ["dropped", "refused", "malformed", "skipped"].flatMap((place) =>
    Object.entries(view[place]).filter(([, n]) => n > 0).map(([reason, n]) => {
      const loss = going[`${place} ${reason}`];
      const some = loss && loss.count < n ? `, ${number(loss.count)} of them` : "";
      const since = loss ? `${some} since ${clock(loss.since, now)}` : "";
      return [`${place}: ${reason}`, number(n) + since + lastOf(view, place, reason, now), "", loss && place !== "skipped" ? "bad" : ""];
    }));
  for (const one of view.listeners) {
    if (one.kernel_drops) reasons.unshift([`unread at ${one.endpoint}`, `${number(one.kernel_drops)} datagrams dropped by the kernel`, "", "bad"]);
  }
  $("lost").hidden = reasons.length === 0;
  fill($("reasons"), reasons);
}

// === The chart ===

let seconds = [];
let minutes = [];
let intervalS = 10;
let reading = null;

const pointsOf = (far) => (far > HISTORY_SECONDS ? minutes : seconds);

// Rates between points that are some send intervals apart, and of which the last brought something, if any did: what is sent
// comes in bursts, and a step that has one too many or too few would be a needle.
function steps(far) {
  const points = pointsOf(far);
  const apart = Math.max(far / 60, 2 * intervalS) * 1000;
  const found = [];
  let [then, before] = [points[0], points[0]];
  for (const point of points) {
    const span = point[0] - then[0];
    const ends = point[2] > before[2] || point[2] === then[2] || span >= 2 * apart;
    if (span >= apart && ends) {
      const rateOf = (at) => (Math.max(0, point[at] - then[at]) * 1000) / span;
      found.push({ at: point[0] / 1000, received: rateOf(1), delivered: rateOf(2) });
      then = point;
    }
    before = point;
  }
  return found;
}

function niceTop(most) {
  const base = 10 ** Math.floor(Math.log10(Math.max(1, most)));
  return [1, 2, 5, 10].map((n) => n * base).find((n) => n >= most) ?? 10 * base;
}

function showChart(now) {
  const wanted = Number(document.querySelector("input[name=span]:checked").value);
  // The figures of a young daemon are not squeezed into a corner.
  const far = Math.min(wanted, Math.max(MOMENTS, now - (pointsOf(wanted)[0]?.[0] ?? 0) / 1000));
  const all = steps(wanted).filter((step) => step.at >= now - far);
  // Drawn in the size in which it stands, so that its words can be read on a phone.
  const [wide, high, left, bottom] = [Math.max(280, $("chart").clientWidth), 230, 64, 24];
  const ticks = wide < 500 ? 2 : 4;
  const top = niceTop(Math.max(1, ...all.map((step) => Math.max(step.received, step.delivered))));
  const x = (at) => left + ((at - (now - far)) / far) * (wide - left - 8);
  const y = (value) => 8 + (1 - value / top) * (high - bottom - 8);
  const last = all.at(-1);
  const label = last ? `received ${rate(last.received)}, delivered ${rate(last.delivered)} of late` : "nothing to draw yet";
  const svg = drawn("svg", { viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": label });
  for (const value of [0, top / 2, top]) {
    svg.append(drawn("line", { class: "grid", x1: left, x2: wide - 8, y1: y(value), y2: y(value) }));
    svg.append(drawn("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, rate(value)));
  }
  // Without dates, which have no room beside each other on a phone: no span is longer than a day.
  for (let i = 0; i <= ticks; i += 1) {
    const at = now - far + (far * i) / ticks;
    svg.append(drawn("text", { x: x(at), y: high - 6, "text-anchor": i === 0 ? "start" : i === ticks ? "end" : "middle" }, clock(at, at, far < ticks * 60 ? EXACT : {})));
  }
  const line = (key) => all.map((step, i) => `${i ? "L" : "M"}${x(step.at).toFixed(1)} ${y(step[key]).toFixed(1)}`).join("");
  if (all.length > 1) {
    const back = [...all].reverse().map((step) => `L${x(step.at).toFixed(1)} ${y(Math.min(step.delivered, step.received)).toFixed(1)}`).join("");
    svg.append(drawn("path", { class: "gap", d: `${line("received")}${back}Z` }));
    svg.append(drawn("path", { class: "in", d: line("received") }), drawn("path", { class: "out", d: line("delivered") }));
  }
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    reading = now - far + far * ((((event.clientX - box.left) / box.width) * wide - left) / (wide - left - 8));
    read(all, now);
  });
  svg.addEventListener("pointerleave", () => { reading = null; read(all, now); });
  $("chart").replaceChildren(svg);
  read(all, now);
}

function read(all, now) {
  const near = reading === null ? all.at(-1) : all.reduce((best, step) => (!best || Math.abs(step.at - reading) < Math.abs(best.at - reading) ? step : best), null);
  if (!near) { say("reading", "The first figures come after a send interval."); return; }
  const behind = near.received - near.delivered;
  $("reading").replaceChildren(
    `${clock(near.at, now)}: `, element("span", `— received ${rate(near.received)}`, { class: "key-in" }), "  ",
    element("span", `- - delivered ${rate(near.delivered)}`, { class: "key-out" }),
    behind > near.received / 50 ? `, ${rate(behind)} not delivered` : "",
  );
}

// === The spool, the last day ===

function showSpool(view, now) {
  const s = view.spool;
  // A full disk ends it before its own cap does.
  const room = s.bytes_cap || s.bytes_max;
  $("gauge").value = room ? Math.min(1, s.used_bytes / room) : 0;
  const until = view.verdict.until ? `; lasts until ${clock(view.verdict.until.time, now)}` : "";
  const cap = room < s.bytes_max ? `, for the disk is full (--spool_max ${bytes(s.bytes_max)})` : "";
  say("gauge-words", `${bytes(s.used_bytes)} of ${bytes(room)}${cap}${until}`);
  const rows = [
    ["oldest datapoint", s.oldest_time ? ago(s.oldest_time, now) : "none: nothing waits", "How long the oldest datapoint has been waiting."],
    ["dead letters", s.dead_letters ? `${number(s.dead_letters)} (${bytes(s.dead_letter_bytes)})` : "none", "Datapoints that Blueflood refused: see `blueflood-forward dead-letters list`."],
  ];
  if (s.blocked) rows.unshift(["takes nothing", s.blocked, "", "bad"]);
  if (s.disk_full) rows.unshift(["disk", "full", "", "bad"]);
  if (s.amiss) rows.unshift(["amiss", String(s.amiss), "", "bad"]);
  fill($("spool"), rows);
}

const STATES = ["well", "losing", "keeping", "wrong"];

function showStrip(now) {
  const svg = drawn("svg", { viewBox: "0 0 1440 40", preserveAspectRatio: "none", role: "img" });
  svg.append(drawn("rect", { class: "none", x: 0, y: 0, width: 1440, height: 40 }));
  const from = Math.floor(now / 60) - 1439;
  const spent = {};
  // Minutes of one kind side by side are one piece.
  let piece = null;
  for (const [ms, , , , state] of minutes) {
    const at = Math.floor(ms / 60000) - from;
    const name = STATES[state];
    if (at < 0) continue;
    spent[name] = (spent[name] ?? 0) + 1;
    if (piece?.name === name && piece.end === at) piece.end = at + 1;
    else {
      if (piece) svg.append(drawn("rect", { class: piece.name, x: piece.begin, y: 0, width: piece.end - piece.begin, height: 40 }));
      piece = { name, begin: at, end: at + 1 };
    }
  }
  if (piece) svg.append(drawn("rect", { class: piece.name, x: piece.begin, y: 0, width: piece.end - piece.begin, height: 40 }));
  const words = STATES.filter((name) => spent[name]).map((name) => `${name} ${duration(spent[name] * 60)}`).join(", ");
  svg.setAttribute("aria-label", words || "nothing yet");
  $("strip").replaceChildren(svg);
  say("strip-words", words ? `${words}; grey: not running, or not known` : "the first minute is not over yet");
}

function showDelays(view) {
  const spread = (one) => (one && one.p50 !== null ? `half within ${one.p50} s, 99 % within ${one.p99 ?? "more than a day"} s` : "none yet");
  fill($("delays"), [
    ["delay", spread(view.figures.delivery_delay_seconds), "From receipt to delivery, by datapoint, since the start."],
    ["answers", spread(view.figures.answer_seconds), "How long Blueflood takes for an answer, since the start."],
  ]);
}

// === The rest ===

let before = null;

function showListeners(view, now) {
  const then = before ?? view;
  const span = (view.time_ms - then.time_ms) / 1000;
  const names = ["endpoint", "protocol", "connections", "per second", "datapoints", "last", "malformed"];
  const rows = view.listeners.map((one) => {
    const row = document.createElement("tr");
    // Their samples stand above, among what was lost.
    const malformed = Object.entries(one.malformed).map(([reason, bad]) => `${reason}: ${number(bad.count)}`);
    const was = then.listeners.find((other) => other.endpoint === one.endpoint) ?? one;
    const speed = span > 0 ? rate(Math.max(0, one.datapoints - was.datapoints) / span) : "…";
    const cells = [one.endpoint, one.protocol, number(one.connections), speed, number(one.datapoints), ago(one.last_received, now, "not since the start"), malformed.join(", ") || "none"];
    row.append(...cells.map((text, i) => element("td", text, { "data-name": names[i] })));
    return row;
  });
  $("listeners").replaceChildren(...rows);
  // Averaged over ten seconds and more: senders come in bursts.
  if (!before || span >= 20) before = view;
}

// The daemon remembers so many senders, and of others how much they sent at least and at most.
function showSenders(view) {
  const { datapoints, top } = view.senders;
  $("senders-part").hidden = top.length === 0;
  const names = ["from", "datapoints", "share"];
  const rows = top.map((one) => {
    const about = one.at_least === one.at_most ? "" : "about ";
    const share = datapoints ? Math.round((100 * one.at_least) / datapoints) : 0;
    return [one.from, about + number(one.at_least), `${about}${share} %`];
  });
  if (rows.length) say("sends-most", `${rows[0][0]} (${rows[0][2]})`);
  $("senders").replaceChildren(...rows.map((cells) => {
    const row = document.createElement("tr");
    row.append(...cells.map((text, i) => element("td", text, { "data-name": names[i] })));
    return row;
  }));
}

function showRest(view, now) {
  const f = view.forwarder;
  fill($("forwarder"), [
    ["gate", f.gate.open ? "open" : `closed: ${f.gate.cause}` + (f.gate.next_try_in_s ? `; next try in ${duration(f.gate.next_try_in_s)}` : ""), "Whether requests may leave. A failure closes it; after a pause one request probes."],
    ["in flight", `${f.in_flight} of ${f.concurrency}`, "Requests under way, and how many may be at once now."],
    ["set aside", number(f.set_aside), "Payloads that wait by themselves for another try."],
    ["requests", `${number(f.posts)}, of them ${number(f.retries)} again`, "Requests that came to an end, and how many were a second or later try."],
    ["sent", bytes(f.bytes_sent), "Bytes of all request bodies, as they were sent."],
    ["last success", ago(f.last_success, now), "When Blueflood last took a payload."],
    ["last error", f.last_error ? `${f.last_error.text}, ${ago(f.last_error.time, now)}` : "none", "The last answer that was none, or no good one."],
  ]);
  const k = view.keystone;
  $("keystone-section").hidden = !k;
  if (k) fill($("keystone"), [
    ["state", k.state], ["token", k.expires_in_s === null ? "none" : `expires in ${duration(k.expires_in_s)}`],
    ["renewals", number(k.renewals)], ["failures", number(k.failures)], ["last error", k.last_error ?? "none"],
  ]);
  $("certificates-section").hidden = view.certificates.length === 0;
  fill($("certificates"), view.certificates.map((one) => {
    const left = one.expires - now;
    const text = left > 0 ? `expires in ${duration(left)}` : `has expired ${duration(-left)} ago`;
    return [`${one.role}: ${one.file}`, text, "", left < EXPIRES_SOON ? "bad" : ""];
  }));
  fill($("actors"), Object.entries(view.actors).map(([name, a]) =>
    [name, `${a.answers ? "answers" : "does not answer"}, ${count(a.restarts, "restart")}`, "", a.answers ? "" : "bad"]));
  if ($("figures").parentElement.open) {
    fill($("figures"), Object.entries(view.figures).map(([name, value]) =>
      [name, value !== null && typeof value === "object" ? Object.entries(value).map(([of, n]) => `${of} ${n ?? "–"}`).join(", ") : String(value)]));
  }
}

function showSettings(settings) {
  $("settings").replaceChildren(...settings.map((one) => {
    const row = document.createElement("tr");
    row.append(...[one.key, one.value, one.origin].map((text) => element("td", text)));
    return row;
  }));
}

// What `delivered` means here.
function delivered(confirm, d) {
  if (!confirm || confirm.mode === "off") return "delivered: acknowledged by Blueflood, not read back; --query and --confirm change that";
  return `delivered: read back (${confirm.mode}); ${number(d.acknowledged)} acknowledged and not read back yet, ${number(confirm.resent)} sent again` +
    (confirm.unknown ? `, ${number(confirm.unknown)} that could never be read back` : "");
}

function show(view) {
  const now = view.time_ms / 1000;
  const d = view.datapoints;
  lastNow = now;
  intervalS = view.interval_s ?? 10;
  const point = [view.time_ms, d.received, d.delivered, d.buffered, STATES.indexOf(view.verdict.condition)];
  seconds = [...seconds, point].slice(-HISTORY_SECONDS);
  if (!minutes.length || view.time_ms - minutes.at(-1)[0] >= 60000) minutes = [...minutes, point].slice(-1440);
  showVerdict(view, now);
  showLost(view, now);
  say("rates", view.rates ? `received ${rate(view.rates.received)}, delivered ${rate(view.rates.delivered)}, over the last ${duration(view.rates.over_s)}` : "");
  say("law",
    `received ${number(d.received)} = skipped ${number(d.skipped)} + buffered ${number(d.buffered)} + ` +
    `delivered ${number(d.delivered)} + refused ${number(d.refused)} + dropped ${number(d.dropped)} ` +
    `(unaccounted ${number(d.unaccounted)})`);
  say("delivered", delivered(view.confirm, d));
  $("law").className = d.unaccounted === 0 ? "" : "bad";
  showChart(now);
  showSpool(view, now);
  showStrip(now);
  showDelays(view);
  showListeners(view, now);
  showSenders(view);
  showRest(view, now);
  document.body.dataset.updates = String(Number(document.body.dataset.updates ?? 0) + 1);
}

// === Help on hover and focus ===

function offerHelp() {
  const box = element("div", "", { id: "help", role: "tooltip" });
  box.hidden = true;
  document.querySelector("main").append(box);
  const reveal = (event) => {
    const target = event.target.closest?.("[data-help]");
    if (!target) return;
    box.textContent = target.dataset.help;
    box.hidden = false;
    target.setAttribute("aria-describedby", box.id);
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
}

async function start() {
  offerHelp();
  document.body.classList.remove("unscripted");
  const asJson = async (path) => (await fetch(path)).json();
  const history = await asJson("/history");
  seconds = history.points;
  minutes = history.minutes;
  showSettings((await asJson("/settings")).settings);
  const events = new EventSource("/events");
  events.onmessage = (event) => show(JSON.parse(event.data));
  events.onerror = showGone;
}

start().catch((error) => { showGone(); say("health", `this page failed: ${error}`); });
