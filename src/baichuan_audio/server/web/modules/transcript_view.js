/** The conversation as it is read: one list item a turn, plain text only, whatever the text holds. */
import { t } from "./i18n.js";

export class TranscriptView {
  /** @param {HTMLOListElement} list  @param {HTMLElement} empty shown while there are none */
  constructor(list, empty) {
    Object.assign(this, { list, empty });
    this.clear();
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
    const element = document.createElement("li");
    element.className = `turn ${role}`;
    element.dataset.item = item;
    const who = document.createElement("span");
    who.className = "who";
    who.dataset.i18n = role === "user" ? "you" : "model";
    who.textContent = t(who.dataset.i18n);
    const text = document.createElement("p");
    text.className = "text";
    text.dir = "auto";
    const note = document.createElement("span");
    note.className = "note";
    element.append(who, text, note);
    const turn = { role, item, text: "", at: new Date(), interrupted: false, element, textElement: text, note };
    this.all.push(turn);
    this.byItem.set(item, turn);
    this.empty.hidden = true;
    this.keepInView(() => this.list.append(element));
    return turn;
  }

  setText(turn, text) {
    if (turn.text === text) return;
    turn.text = text;
    this.keepInView(() => (turn.textElement.textContent = text));
  }

  setNote(turn, text) {
    this.keepInView(() => (turn.note.textContent = text));
  }

  setWaiting(turn, waiting) {
    turn.element.classList.toggle("waiting", waiting);
  }

  setInterrupted(turn) {
    turn.interrupted = true;
    turn.element.classList.add("interrupted");
    this.setNote(turn, t("interrupted"));
  }

  remove(turn) {
    turn.element.remove();
    this.byItem.delete(turn.item);
    this.all = this.all.filter((other) => other !== turn);
    this.empty.hidden = this.all.length > 0;
  }

  /** Follow the newest words, unless the reader has scrolled back. */
  keepInView(change) {
    const box = this.list.parentElement;
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 80;
    change();
    if (atEnd) box.scrollTop = box.scrollHeight;
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
