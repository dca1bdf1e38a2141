// The page of the admin port. What comes from outside becomes text of an element, never markup.
"use strict";

const PAUSE = 1000; // milliseconds between two looks
const SPAN = 10; // seconds that rates are over
const at = (id) => document.getElementById(id);

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
  return node;
}

function make(tag, text, props = {}, ...children) {
  const node = Object.assign(document.createElement(tag), props);
  if (text) node.textContent = text;
  node.append(...children);
  return node;
}

const digits = (value) => (value >= 100 ? 0 : value >= 10 ? 1 : 2);
const number = (value) =>
  value.toLocaleString("en", { maximumFractionDigits: digits(value) });
const share = (part, whole) => (whole > 0 ? `${number((100 * part) / whole)}\u00a0%` : "–");

function span(seconds) {
  if (seconds < 1) return `${number(seconds * 1000)} ms`;
  if (seconds < 120) return `${Math.ceil(seconds)} s`;
  return seconds < 7200 ? `${Math.ceil(seconds / 60)} min` : `${number(seconds / 3600)} h`;
}

// --- What the port answers

async function ask(path, body, accept) {
  const headers = {};
  if (at("token").value) headers.authorization = `Bearer ${at("token").value}`;
  if (body) headers["content-type"] = "application/json";
  if (accept) headers.accept = accept;
  const method = body ? "POST" : "GET";
  const sent = body && JSON.stringify(body);
  const answer = await fetch(path, { method, headers, body: sent, cache: "no-store" });
  const text = await answer.text();
  // A replica that is not ready says why with a 503.
  if (!answer.ok && path !== "readyz") {
    throw Object.assign(new Error(text.trim() || String(answer.status)), { status: answer.status });
  }
  return text;
}

// Series of OpenMetrics text: name → [{ labels, value }].
function series(text) {
  const all = new Map();
  for (const line of text.split("\n")) {
    const found = /^(\w+)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!found) continue;
    const labels = new Map();
    for (const [, name, value] of (found[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
      labels.set(name, value.replace(/\\(.)/g, (_, c) => (c === "n" ? "\n" : c)));
    }
    if (!all.has(found[1])) all.set(found[1], []);
    all.get(found[1]).push({ labels, value: Number(found[3]) });
  }
  return all;
}

// --- Two looks at the figures, and what happened in between

class Window {
  constructor() {
    this.looks = [];
  }
  add(time, metrics) {
    // A process that began anew counts from zero.
    const last = this.looks.at(-1)?.metrics;
    const count = (metrics) => sum(metrics, "tollgate_check_duration_seconds_count");
    if (last && count(metrics) < count(last)) this.looks = [];
    this.looks.push({ time, metrics });
    while (this.looks.length > 2 && this.looks[1].time < time - SPAN * 1000) this.looks.shift();
  }
  get now() {
    return this.looks.at(-1).metrics;
  }
  get seconds() {
    return (this.looks.at(-1).time - this.looks[0].time) / 1000;
  }
  grown(name, wanted) {
    return sum(this.now, name, wanted) - sum(this.looks[0].metrics, name, wanted);
  }
  rate(name, wanted) {
    return this.seconds > 0 ? this.grown(name, wanted) / this.seconds : 0;
  }
  // The least bound within which so many of 100 were.
  within(percent, name) {
    const bounds = (this.now.get(`${name}_bucket`) ?? []).map(({ labels }) => labels.get("le"));
    const within = bounds.map((le) => this.grown(`${name}_bucket`, { le }));
    const all = within.at(-1) ?? 0;
    if (!(all > 0)) return "–";
    const place = within.findIndex((count) => count * 100 >= percent * all);
    if (place === bounds.length - 1) return `> ${span(Number(bounds[place - 1]))}`;
    return `≤ ${span(Number(bounds[place]))}`;
  }
}

// With many rules, going through all series for each of them would take too long.
function ofRule(all, rule) {
  all.byRule ??= Map.groupBy(all, ({ labels }) => labels.get("rule"));
  return all.byRule.get(rule) ?? [];
}

function sum(metrics, name, { rule, ...wanted } = {}) {
  const all = metrics.get(name) ?? [];
  const labelled = Object.entries(wanted);
  let total = 0;
  for (const { labels, value } of rule === undefined ? all : ofRule(all, rule)) {
    if (labelled.every(([key, want]) => labels.get(key) === want)) total += value;
  }
  return total;
}

const seen = new Window();

// --- Now

function figures(window) {
  const { now } = window;
  const loaded = sum(now, "tollgate_rules_last_success_timestamp_seconds");
  const refused = sum(now, "tollgate_rules_last_reload_success") === 0;
  const all = {
    "Checks/s": number(window.rate("tollgate_checks_total")),
    "Check, median": window.within(50, "tollgate_check_duration_seconds"),
    "Check, 99\u00a0%": window.within(99, "tollgate_check_duration_seconds"),
    "Store, median": window.within(50, "tollgate_store_duration_seconds"),
    "Store, 99\u00a0%": window.within(99, "tollgate_store_duration_seconds"),
    Store: sum(now, "tollgate_store_up") ? "answers" : "is away",
    "Store errors/s": number(window.rate("tollgate_store_errors_total")),
    "Without store/s": number(window.rate("tollgate_store_fallbacks_total")),
    Replicas: number(sum(now, "tollgate_replicas")),
    "Counters in memory": number(sum(now, "tollgate_memory_keys")),
    Connections: number(sum(now, "tollgate_connections")),
    Memory: `${number(sum(now, "process_resident_memory_bytes") / 1e6)}\u00a0MB`,
    CPU: share(window.rate("process_cpu_seconds_total"), 1),
    "Last reload": refused ? "refused" : "in force",
    "Rules since": loaded ? new Date(loaded * 1000).toLocaleString() : "–",
    "Refused/s": number(window.rate("tollgate_refused_requests_total")),
  };
  const list = at("figures");
  if (!list.firstChild) {
    for (const name of Object.keys(all)) {
      list.append(make("div", "", {}, make("dt", name), make("dd", "")));
    }
  }
  Object.values(all).forEach((value, place) => say(list.children[place].lastChild, value));
  const [build] = now.get("tollgate_build_info") ?? [];
  say(at("version"), build?.labels.get("version") ?? "");
}

let wasRefused = null;

async function health() {
  const report = JSON.parse(await ask("readyz"));
  say(at("health"), report.status).className = `badge ${report.status}`;
  const lines = report.components.map(({ name, status, detail }) => {
    return `${name}: ${status}${detail ? ` – ${detail}` : ""}`;
  });
  const list = at("components");
  while (list.children.length < lines.length) list.append(make("li"));
  lines.forEach((line, place) => say(list.children[place], line));
  // As `tollgate validate` prints it.
  const refused = report.components.find(({ name }) => name === "rules")?.detail ?? null;
  if (refused === wasRefused) return;
  const text = refused && (await ask("rules/refused").catch(() => ""));
  say(at("refused"), text || "");
  at("refused").hidden = !text;
  wasRefused = refused;
}

// --- Rules

let shown = { generation: null, rules: [] };

const plan = (limits) => {
  if (!Array.isArray(limits)) return limits === 0 ? "nothing" : String(limits);
  return limits.map(({ rate }) => rate).join(", ");
};

function limitsOf(rule) {
  if (rule.action !== "limit") return rule.action === "deny" ? "denies all" : "admits all";
  const key = rule.key.length ? ` for each ${rule.key.join(", ")}` : " for all together";
  const tiers = rule.tiers.map((tier) => `${tier.name}: ${plan(tier.limits)}`);
  const overrides = rule.overrides ? [`${rule.overrides} overrides`] : [];
  const { ban } = rule;
  const bans = ban ? [`ban for ${ban.for} after ${ban.after} denials within ${ban.within}`] : [];
  return [plan(rule.limits) + key, ...tiers, ...overrides, ...bans].join("; ");
}

async function rules(window) {
  const generation = sum(window.now, "tollgate_rules_generation");
  if (generation === shown.generation) return;
  const { rules } = JSON.parse(await ask("rules"));
  shown = { generation, rules };
  // Roles, because a narrow screen shows rows as blocks, and some browsers then forget the table.
  const label = (text) => {
    const cell = make("td", "", { className: "n", role: "cell" });
    cell.dataset.label = text;
    return cell;
  };
  const rows = rules.map((rule) => {
    const shadow = rule.mode === "shadow" ? [make("span", " (shadow)", { className: "hint" })] : [];
    const cells = ["Admitted/s", "Denied/s", "Denied", "Near"].map((text) => label(text));
    const other = make("td", "", { className: "other", role: "cell" });
    const limits = make("td", limitsOf(rule), { className: "limits", role: "cell" });
    const name = make("th", rule.name, { scope: "row", role: "rowheader" }, ...shadow);
    return make("tr", "", { role: "row" }, name, limits, ...cells, other);
  });
  at("rule-rows").replaceChildren(...rows);
  const chosen = at("caller-rule").value;
  const options = rules
    .filter(({ action }) => action === "limit")
    .map(({ name }) => make("option", name, { value: name }));
  at("caller-rule").replaceChildren(...options);
  if (rules.some(({ name }) => name === chosen)) at("caller-rule").value = chosen;
}

const OTHER = { shadow_denied: "would deny", unavailable: "unavailable" };

function rates(window) {
  shown.rules.forEach(({ name: rule }, place) => {
    const of = (outcome) => window.rate("tollgate_decisions_total", { rule, outcome });
    const admitted = of("allowed") + of("fallback_allowed");
    const denied = of("denied") + of("fallback_denied");
    const admissions = window.grown("tollgate_admissions_total", { rule });
    const near = window.grown("tollgate_near_limit_total", { rule });
    const others = Object.entries(OTHER).map(([outcome, name]) => [name, of(outcome)]);
    const without = of("fallback_allowed") + of("fallback_denied");
    others.push(["without the store", without]);
    const other = others.filter(([, rate]) => rate > 0);
    const texts = [
      number(admitted),
      number(denied),
      share(denied, admitted + denied),
      share(near, admissions),
      other.map(([name, rate]) => `${name} ${number(rate)}`).join(", "),
    ];
    const cells = at("rule-rows").children[place].children;
    texts.forEach((text, n) => say(cells[n + 2], text));
  });
}

// --- Top offenders

let listed = "";

async function offenders() {
  let text;
  try {
    text = await ask("offenders");
  } catch (error) {
    listed = "";
    at("offender-lists").replaceChildren();
    const hint = error.status === 401 ? " Write yours into the field for it below." : "";
    say(at("offenders-note"), error.message + hint);
    return;
  }
  if (text === listed) return;
  listed = text;
  const { minutes, rules } = JSON.parse(text);
  const none = rules.length ? "" : " Nobody was.";
  say(at("offenders-note"), `Who was denied most in the last ${minutes} minutes.${none}`);
  const focused = document.activeElement?.dataset.caller;
  const blocks = rules.map((of) => {
    const missed = of.missed ? `, ${number(of.missed)} of them not by caller` : "";
    const would = of.shadow ? "would have denied" : "denied";
    const title = make("h3", `${of.rule}: ${would} ${number(of.denied)}${missed}`);
    const rows = of.callers.map((caller) => {
      const { key, denied_at_least: least, denied_at_most: most } = caller;
      const times = least === most ? number(least) : `${number(least)} to ${number(most)}`;
      let who = make("span", key, { className: "key" });
      if (!key.endsWith("…")) {
        who = make("button", key, { type: "button", className: "link key" });
        who.dataset.caller = `${of.rule} ${key}`;
        who.addEventListener("click", () => choose(of.rule, key));
      }
      return make("tr", "", {}, make("td", "", {}, who), make("td", times, { className: "n" }));
    });
    const head = make("tr", "", {},
      make("th", "Caller", { scope: "col" }), make("th", "Denied", { scope: "col", className: "n" }));
    const table = make("table", "", {},
      make("thead", "", {}, head), make("tbody", "", {}, ...rows));
    // A rule that tells no callers apart has one, who has no name.
    const isTold = of.callers.some(({ key }) => key);
    return make("div", "", {}, title, ...(isTold ? [table] : []));
  });
  at("offender-lists").replaceChildren(...blocks);
  if (focused) {
    const again = [...at("offender-lists").querySelectorAll("button")];
    again.find((button) => button.dataset.caller === focused)?.focus();
  }
}

function choose(rule, key) {
  at("caller-rule").value = rule;
  at("caller-key").value = key;
  for (const id of ["caller-ip", "caller-path", "caller-headers"]) at(id).value = "";
  at("caller-key").focus();
  lookUp();
}

// --- A caller

function headersIn(id) {
  const headers = {};
  for (const line of at(id).value.split("\n").filter((line) => line.trim())) {
    const colon = line.indexOf(":");
    if (colon < 1) throw new Error(`a header is a line like "x-api-key: k", not ${JSON.stringify(line)}`);
    const name = line.slice(0, colon).trim().toLowerCase();
    (Object.hasOwn(headers, name) ? headers[name] : (headers[name] = [])).push(line.slice(colon + 1).trim());
  }
  return headers;
}

function given(fields) {
  const some = Object.entries(fields).filter(([, value]) => value && value.trim());
  return Object.fromEntries(some.map(([name, value]) => [name, value.trim()]));
}

function caller() {
  const rule = at("caller-rule").value;
  const key = at("caller-key").value.trim();
  const sent = given({ ip: at("caller-ip").value, path: at("caller-path").value });
  const request = { ...sent, headers: headersIn("caller-headers") };
  return key ? { rule, key, request } : { rule, request };
}

function counters(title, status) {
  const lines = [...status.limits, ...(status.ban ? [status.ban] : [])].map((limit) => {
    const wait = limit.fits ? "" : `, again in ${span(limit.wait_us / 1e6)}`;
    return make("li", `${limit.name} (${limit.rate}): ${number(limit.left)} left${wait}`);
  });
  if (!lines.length) lines.push(make("li", "no limit holds for this caller"));
  const name = make("span", status.key || "all callers together", { className: "key" });
  const head = make("h3", `${title}: ${status.rule} `, {}, name);
  return make("div", "", {}, head, make("ul", "", {}, ...lines));
}

function failed(node, error) {
  node.replaceChildren(make("p", error.message, { className: "error" }));
}

async function lookUp() {
  const answer = at("caller-answer");
  try {
    const status = JSON.parse(await ask("counters/get", caller()));
    answer.replaceChildren(counters("Now", status));
  } catch (error) {
    failed(answer, error);
  }
}

function confirmed(title, text, yes) {
  const dialog = at("confirm");
  say(at("confirm-title"), title);
  say(at("confirm-text"), text);
  say(at("confirm-yes"), yes);
  return new Promise((resolve) => {
    const end = (sure) => () => {
      dialog.onclose = null;
      dialog.close();
      resolve(sure);
    };
    at("confirm-yes").onclick = end(true);
    at("confirm-no").onclick = end(false);
    dialog.onclose = () => resolve(false);
    dialog.showModal();
    at("confirm-no").focus();
  });
}

async function change(action, title, what) {
  const answer = at("caller-answer");
  try {
    // Who is meant is asked before, so that the question names the caller.
    const who = caller();
    const { rule, key } = JSON.parse(await ask("counters/get", who));
    const named = `${rule} ${key || "(all callers together)"}`;
    if (!(await confirmed(`${title}?`, `${what}: ${named}`, title))) return;
    const changed = JSON.parse(await ask(`counters/${action}`, who));
    const parts = [counters("Before", changed.before), counters("After", changed.after)];
    if (changed.unconfirmed) {
      const text = `${changed.unconfirmed} replicas have not said that they know; it holds there within a second.`;
      parts.push(make("p", text, { className: "error" }));
    }
    answer.replaceChildren(...parts);
  } catch (error) {
    failed(answer, error);
  }
}

at("caller-form").addEventListener("submit", (event) => {
  event.preventDefault();
  lookUp();
});
at("reset").addEventListener("click", () =>
  change("reset", "Reset", "Removes all counters and the ban of this caller"));
at("unban").addEventListener("click", () => change("unban", "Unban", "Ends the ban of this caller"));

// --- Explain

at("explain-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = at("explain-answer");
  answer.hidden = false;
  try {
    const fields = { method: "explain-method", path: "explain-path", host: "explain-host", ip: "explain-ip" };
    const filled = Object.entries(fields).map(([name, id]) => [name, at(id).value]);
    const query = { ...given(Object.fromEntries(filled)), headers: headersIn("explain-headers") };
    answer.className = "";
    say(answer, await ask("explain", query, "text/plain"));
  } catch (error) {
    answer.className = "error";
    say(answer, error.message);
  }
});

// --- Once a second, while somebody looks

async function look() {
  if (!document.hidden) {
    try {
      seen.add(performance.now(), series(await ask("metrics")));
      await Promise.all([rules(seen), health(), offenders()]);
      figures(seen);
      rates(seen);
      say(at("note"), "");
    } catch (error) {
      say(at("health"), "no answer").className = "badge down";
      say(at("note"), `The figures are old: ${error.message}`);
    }
  }
  setTimeout(look, PAUSE);
}
look();
