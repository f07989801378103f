/** The conversation as it is read: one list item a turn, plain text only, whatever the text holds. */
import { delayText } from "./metrics.js";
import { t } from "./i18n.js";
import { icon } from "./icons.js";

const HAN = /\p{Script=Han}/u;
const OTHER_WIDE = /[\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]/u;
const COPIED_MS = 2000;
const NOTE_KINDS = ["speed", "end"]; // in the order in which they are read

export class TranscriptView {
  /**
   * @param {HTMLOListElement} list  @param {HTMLElement} empty shown while there are none
   * @param {object} handlers onReplay(turn), async onCopy(turn)
   */
  constructor(list, empty, handlers) {
    Object.assign(this, { list, empty, handlers });
    this.count = 0;
    this.following = true; // the newest words stay in view
    this.clear();
    this.followChanges();
  }

  clear() {
    this.all = [];
    this.byItem = new Map();
    this.list.replaceChildren();
    this.empty.hidden = false;
  }

  get(item) {
    return this.byItem.get(item);
  }

  /** @param {"user" | "assistant"} role  @param {string} item the protocol's item id */
  add(role, item) {
    const known = this.byItem.get(item);
    if (known) return known;
    const turn = { role, item, text: "", at: new Date(), interrupted: false, notes: new Map(), clip: null };
    this.build(turn);
    this.all.push(turn);
    this.byItem.set(item, turn);
    this.empty.hidden = true;
    this.keepInView(() => this.list.append(turn.element));
    return turn;
  }

  build(turn) {
    const element = make("li", `turn ${turn.role}`);
    element.dataset.item = turn.item;
    const who = make("span", "who");
    who.dataset.i18n = turn.role === "user" ? "you" : "model";
    who.textContent = t(who.dataset.i18n);
    const text = make("p", "text");
    text.dir = "auto";
    text.id = `text-${++this.count}`;
    const foot = make("div", "foot");
    const note = make("span", "note");
    const replay = this.button("play", "replay", text.id, () => this.handlers.onReplay(turn));
    const copy = this.button("copy", "copy", text.id, () => this.copy(turn));
    foot.append(note, replay, copy);
    element.append(who, text, foot);
    Object.assign(turn, { element, textElement: text, noteElement: note, replay, copyButton: copy });
  }

  button(image, key, describedBy, run) {
    const button = make("button", "quiet icon small");
    button.type = "button";
    button.hidden = true;
    button.setAttribute("aria-describedby", describedBy);
    button.append(icon(image));
    label(button, key);
    button.addEventListener("click", run);
    return button;
  }

  setText(turn, text) {
    if (turn.text === text) return;
    turn.text = text;
    turn.copyButton.hidden = text === "";
    turn.textElement.lang = languageOf(text);
    this.keepInView(() => (turn.textElement.textContent = text));
  }

  /**
   * @param {"speed" | "end"} kind  @param {string} key of the text
   * @param {number | null} seconds where the text contains a duration
   */
  setNote(turn, kind, key, seconds = null) {
    turn.notes.set(kind, { key, seconds });
    this.showNotes(turn);
  }

  showNotes(turn) {
    const notes = NOTE_KINDS.map((kind) => turn.notes.get(kind)).filter(Boolean);
    const texts = notes.map(({ key, seconds }) => (seconds === null ? t(key) : delayText(key, seconds)));
    this.keepInView(() => (turn.noteElement.textContent = texts.join(" · ")));
  }

  setWaiting(turn, waiting) {
    turn.element.classList.toggle("waiting", waiting);
  }

  setInterrupted(turn) {
    turn.interrupted = true;
    turn.element.classList.add("interrupted");
    this.setNote(turn, "end", "interrupted");
  }

  /** The person's turn had no speech in it. Several of them in a row are shown once. */
  setNothing(turn) {
    const before = this.all[this.all.indexOf(turn) - 1];
    if (before?.nothing) this.remove(before);
    turn.nothing = true;
    turn.element.classList.add("nothing");
    this.setNote(turn, "end", "nothing");
  }

  /** @param {{from: number, to: number}} clip where its sound is, see recording.js */
  setClip(turn, clip) {
    turn.clip = clip;
    turn.replay.hidden = false;
  }

  /** @param {object | null} turn whose sound is being played again */
  showReplaying(turn) {
    for (const other of this.all) {
      const playing = other === turn;
      other.element.classList.toggle("replaying", playing);
      other.replay.firstChild.firstChild.setAttribute("href", playing ? "#i-stop" : "#i-play");
      label(other.replay, playing ? "stopReplay" : "replay");
    }
  }

  async copy(turn) {
    if (!(await this.handlers.onCopy(turn))) return;
    const use = turn.copyButton.firstChild.firstChild;
    use.setAttribute("href", "#i-check");
    label(turn.copyButton, "copied");
    setTimeout(() => {
      use.setAttribute("href", "#i-copy");
      label(turn.copyButton, "copy");
    }, COPIED_MS);
  }

  remove(turn) {
    turn.element.remove();
    this.byItem.delete(turn.item);
    this.all = this.all.filter((other) => other !== turn);
    this.empty.hidden = this.all.length > 0;
  }

  /** Follow the newest words, unless the reader has scrolled back. */
  keepInView(change) {
    this.following = this.atEnd();
    change();
    if (this.following) this.scrollToEnd();
  }

  /** The reader scrolls back or to the end; what stands below takes room or gives it back. */
  followChanges() {
    let height = 0; // of the section when it was last looked at: one that shrinks scrolls, too
    const look = () => {
      if (this.box.clientHeight === height) this.following = this.atEnd();
    };
    const resized = () => {
      height = this.box.clientHeight;
      if (this.following && this.all.length > 0) this.scrollToEnd();
    };
    document.addEventListener("scroll", look, { capture: true, passive: true });
    new ResizeObserver(resized).observe(this.list.parentElement);
  }

  /** What scrolls: the section, or on the lowest screens the page. */
  get box() {
    const section = this.list.parentElement;
    return getComputedStyle(section).overflowY === "visible" ? document.scrollingElement : section;
  }

  atEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.box;
    return scrollHeight - scrollTop - clientHeight < 80;
  }

  scrollToEnd() {
    this.box.scrollTop = this.box.scrollHeight;
  }

  /** After the page's language has changed: what was not written by either side. */
  translate() {
    for (const turn of this.all) this.showNotes(turn);
  }

  /** The conversation as a text file: time, speaker, words. */
  toText() {
    const lines = this.all
      .filter((turn) => turn.text)
      .map((turn) => {
        const who = t(turn.role === "user" ? "you" : "model");
        const tail = turn.interrupted ? ` [${t("interrupted")}]` : "";
        return `[${turn.at.toLocaleTimeString()}] ${who}: ${turn.text}${tail}`;
      });
    return lines.join("\n") + "\n";
  }
}

function make(tag, className) {
  return Object.assign(document.createElement(tag), { className });
}

/** Name a button so that another language names it anew. */
function label(button, key) {
  for (const attribute of ["aria-label", "title"]) {
    button.setAttribute(`data-i18n-${attribute}`, key);
    button.setAttribute(attribute, t(key));
  }
}

/** For fonts and screen readers: Chinese where there is any and nothing else that is written with it. */
export function languageOf(text) {
  if (!HAN.test(text)) return /\p{L}/u.test(text) && !OTHER_WIDE.test(text) ? "en" : "";
  return OTHER_WIDE.test(text) ? "" : "zh-CN";
}
