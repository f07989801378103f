/** Ties the page's buttons and fields to the conversation. */
import { copyText } from "./modules/ui/clipboard.js";
import { Conversation } from "./modules/net/conversation.js";
import { Metrics } from "./modules/ui/metrics.js";
import { language, preferredLanguage, setLanguage, t } from "./modules/ui/i18n.js";
import { EventLog } from "./modules/ui/event_log.js";
import { Meter } from "./modules/ui/meter.js";
import { Notices } from "./modules/ui/notices.js";
import { askServer } from "./modules/net/realtime.js";
import { Recording } from "./modules/audio/recording.js";
import { Settings } from "./modules/ui/settings.js";
import { SoundSettings } from "./modules/ui/sound_settings.js";
import { Stopwatch, clockText } from "./modules/ui/stopwatch.js";
import { TranscriptView, languageOf } from "./modules/ui/transcript_view.js";

const TAP_MS = 300; // a shorter press of the talk button holds it until the next one
const SETTLE_MS = 400; // a slider that is moved is not sent at every step

const $ = (id) => document.getElementById(id);
const narrow = matchMedia("(max-width: 960px)"); // the panel lies over the rest then, see style.css
const settings = new Settings();
const transcript = new TranscriptView($("turns"), $("empty"), {
  onReplay: (turn) => conversation.replayTurn(turn),
  onCopy: copyTurn,
});
const recording = new Recording();
const metrics = new Metrics($);
const stopwatch = new Stopwatch();
const log = new EventLog($("log"), $("log-empty"));
const notices = new Notices({ text: $("notice"), action: $("notice-action"), close: $("notice-close") });
const meter = new Meter($("meter"), {
  user: document.querySelector("#legend .user"),
  assistant: document.querySelector("#legend .assistant"),
});
const conversation = new Conversation({
  settings,
  transcript,
  recording,
  meter,
  metrics,
  notices,
  view: {
    onState: showState,
    onVoices: showVoices,
    onDevices: () => soundSettings.showDevices(),
    onEvent: (way, event) => log.add(way, event),
    onKeyNeeded: () => showField("key"),
    chooseMicrophone: () => showField("microphone"),
    announce,
    announceTurn,
  },
});
const soundSettings = new SoundSettings($, settings, conversation);

// --- what is shown ----------------------------------------------------------------------------------------------

function showState(state) {
  const body = document.body;
  const handsFree = settings.handsFree;
  body.dataset.state = state;
  body.dataset.mode = handsFree ? "hands-free" : "push-to-talk";
  $("state-words").textContent = t(`state.${state}`);
  const connected = conversation.phase === "open";
  const silent = conversation.listener.muted || !conversation.microphone.active;
  let label = handsFree ? (silent ? "unmute" : "mute") : state === "hearing" ? "release" : "hold";
  if (!connected) label = "start";
  $("talk-words").textContent = t(label);
  if (connected && handsFree) $("talk").setAttribute("aria-label", t(`${label}Label`));
  else $("talk").removeAttribute("aria-label");
  $("talk-icon").setAttribute("href", connected && handsFree && silent ? "#i-mic-off" : "#i-mic");
  $("talk").disabled = !connected && state !== "offline";
  $("end").disabled = state === "offline";
  $("interrupt").disabled = !(conversation.playback.pending || conversation.awaiting || conversation.replay.turn);
  for (const id of ["download-text", "new"]) $(id).disabled = transcript.all.length === 0;
  $("download-sound").disabled = recording.empty;
  if (connected) stopwatch.start();
  if (state === "offline") stopwatch.stop();
  showElapsed();
  keepAwake(connected);
}

function showElapsed() {
  const milliseconds = stopwatch.milliseconds;
  const text = clockText(milliseconds);
  $("elapsed").hidden = milliseconds === 0;
  if ($("elapsed").textContent !== text) $("elapsed").textContent = text;
}
setInterval(showElapsed, 250);

/** For those who listen to the page: at most a sentence at a time, and only when something has come to its end. */
function announce(text, lang = "") {
  $("announce").lang = lang;
  $("announce").textContent = "";
  requestAnimationFrame(() => ($("announce").textContent = text));
}

/** A turn's text is read out once, whole, and only where no voice says it: it would talk into the microphone. */
function announceTurn({ role, text }) {
  if (soundSettings.silent && text) announce(`${t(role === "user" ? "you" : "model")}: ${text}`, languageOf(text));
}

async function copyTurn(turn) {
  const copied = await copyText(turn.text);
  if (copied) announce(t("copied"));
  else notices.show(t("notCopied"), "note");
  return copied;
}

/** Open what lies over or around a field, and go to it. */
function showField(id) {
  openPanel(true);
  $(id).scrollIntoView({ block: "center" });
  $(id).focus();
}

function showVoices(names) {
  const options = ["", ...names].map((name) => {
    const option = new Option(name || t("voiceDefault"), name);
    if (!name) option.dataset.i18n = "voiceDefault";
    return option;
  });
  $("voice").replaceChildren(...options);
  $("voice").value = names.includes(settings.voice) ? settings.voice : "";
  if (names.length > 0) settings.set("voice", $("voice").value); // another model has other voices
}

function showSettings() {
  $("instructions").value = settings.instructions;
  $("key").value = settings.key;
  $("interruptible").checked = settings.interruptible;
  document.querySelector(`[name=mode][value=${settings.handsFree ? "hands-free" : "push-to-talk"}]`).checked = true;
  for (const name of ["threshold", "silence", "padding"]) {
    $(name).value = settings[name];
    showSlider(name);
  }
  $("detection").hidden = !settings.handsFree;
}

function showSlider(name) {
  const value = settings[name];
  $(`${name}-value`).textContent = name === "threshold" ? value.toFixed(2) : t("milliseconds", { n: value });
}

function showLanguage(code) {
  setLanguage(code);
  const buttons = t("suggestions").split("|").map((text) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: text });
    button.lang = languageOf(text);
    button.addEventListener("click", () => write(text));
    return button;
  });
  $("suggestions").replaceChildren(...buttons);
  $("language").lang = language() === "en" ? "zh-CN" : "en";
  showSettings();
  soundSettings.showVolume();
  soundSettings.showDevices();
  metrics.render();
  transcript.translate();
  showState(conversation.state);
}

function openPanel(open) {
  $("panel").classList.toggle("open", open);
  $("open-panel").setAttribute("aria-expanded", String(open));
  shutCovered();
  if (narrow.matches) (open ? $("close-panel") : $("open-panel")).focus();
}

/** What the open panel lies over is out of reach until it is closed or there is room beside it. */
function shutCovered() {
  const covered = narrow.matches && $("panel").classList.contains("open");
  for (const part of document.querySelectorAll("header, main")) part.inert = covered;
}

let lock = null;
async function keepAwake(awake) {
  if (awake === (lock !== null) || !navigator.wakeLock) return;
  const previous = lock;
  lock = awake ? navigator.wakeLock.request("screen").catch(() => null) : null;
  (await previous)?.release();
}

// --- what is pressed --------------------------------------------------------------------------------------------

async function write(text) {
  if (conversation.state === "offline") {
    conversation.onOpen = () => conversation.write(text);
    await conversation.start({ microphone: false });
  } else {
    await conversation.write(text);
  }
}

$("write").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("message").value.trim();
  if (!text || !["offline", "open"].includes(conversation.phase)) return;
  $("message").value = "";
  write(text);
});

let pressedAt = null; // null: the button is not down
let latched = false;

function talkDown() {
  if (conversation.state === "offline") conversation.start();
  else if (settings.handsFree) conversation.mute(!(conversation.listener.muted || !conversation.microphone.active));
  else if (latched) talkRelease();
  else {
    pressedAt = performance.now();
    conversation.press();
  }
}

function talkUp() {
  if (pressedAt === null) return;
  latched = conversation.listener.held && performance.now() - pressedAt < TAP_MS;
  pressedAt = null;
  if (!latched) talkRelease();
}

function talkRelease() {
  latched = false;
  pressedAt = null;
  conversation.release();
}

$("talk").addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || settings.handsFree || conversation.state === "offline") return;
  $("talk").setPointerCapture(event.pointerId);
  talkDown();
});
for (const type of ["pointerup", "pointercancel"]) $("talk").addEventListener(type, talkUp);
$("talk").addEventListener("contextmenu", (event) => event.preventDefault()); // a long press on a phone
$("talk").addEventListener("click", (event) => {
  // Where the button is held, the pointer has done its work already; a screen reader's click begins or sends.
  if (settings.handsFree || conversation.state === "offline") talkDown();
  else if (event.detail === 0 && conversation.listener.held) talkRelease();
  else if (event.detail === 0) {
    conversation.press();
    latched = true;
  }
});

const typing = (element) => element.matches("input:not([type=range], [type=radio], [type=checkbox]), textarea, select");
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    if ($("panel").classList.contains("open")) openPanel(false);
    else conversation.interrupt();
  } else if (talks(event)) {
    event.preventDefault();
    if (!event.repeat) talkDown();
  }
});
document.addEventListener("keyup", (event) => {
  if (!talks(event)) return;
  event.preventDefault();
  talkUp();
});
window.addEventListener("blur", () => conversation.listener.held && talkRelease());

/** The space bar talks unless it has another meaning where the focus is. */
function talks({ key, target }) {
  if (key !== " " || settings.handsFree || conversation.phase !== "open" || typing(target)) return false;
  return target.id === "talk" || !target.closest("button, summary, label, input");
}

$("interrupt").addEventListener("click", () => conversation.interrupt());
$("end").addEventListener("click", () => conversation.stop());
$("open-panel").addEventListener("click", () => openPanel(true));
$("close-panel").addEventListener("click", () => openPanel(false));
narrow.addEventListener("change", shutCovered);
$("new").addEventListener("click", () => {
  conversation.stop();
  transcript.clear();
  recording.clear();
  metrics.clear();
  stopwatch.reset();
  showState(conversation.state);
});

// --- what is chosen ---------------------------------------------------------------------------------------------

let settling;
function choose(name, value) {
  settings.set(name, value);
  clearTimeout(settling);
  settling = setTimeout(() => conversation.phase === "open" && conversation.configure(), SETTLE_MS);
}

$("voice").addEventListener("change", () => choose("voice", $("voice").value));
$("instructions").addEventListener("input", () => choose("instructions", $("instructions").value));
$("interruptible").addEventListener("change", () => choose("interruptible", $("interruptible").checked));
for (const name of ["threshold", "silence", "padding"]) {
  $(name).addEventListener("input", () => {
    choose(name, Number($(name).value));
    showSlider(name);
  });
}
for (const radio of document.querySelectorAll("[name=mode]")) {
  radio.addEventListener("change", () => {
    choose("handsFree", radio.value === "hands-free");
    $("detection").hidden = !settings.handsFree;
    conversation.setMode(settings.handsFree);
  });
}
$("key").addEventListener("change", async () => {
  settings.set("key", $("key").value.trim());
  showVoices((await askServer(settings.key)).models[0]?.voices ?? []);
});
$("language").addEventListener("click", () => {
  settings.set("language", language() === "en" ? "zh" : "en");
  showLanguage(settings.language);
});
$("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark" ||
    (settings.theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  settings.set("theme", dark ? "light" : "dark");
  showTheme();
});

function showTheme() {
  document.documentElement.dataset.theme = settings.theme;
  meter.draw();
}

function save(blob, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `conversation-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
$("download-text").addEventListener("click", () => save(new Blob([transcript.toText()], { type: "text/plain" }), "txt"));
$("download-sound").addEventListener("click", () => save(recording.toWav(), "wav"));

showVoices([]);
showTheme();
showLanguage(settings.language || preferredLanguage());
askServer(settings.key).then(({ models }) => showVoices(models[0]?.voices ?? []));
