/**
 * Which of a reply's words have been played, from the number of its samples that were.
 *
 * The model writes a clause and then speaks it. So the words that came between two stretches of sound belong to the
 * second: they are spread over it evenly. While that stretch is still coming its end is guessed from a speaking rate
 * that the finished stretches correct.
 */
import { SAMPLE_RATE } from "./pcm.js";

const SECONDS_PER_WIDE = 0.24; // one character of Chinese, Japanese, Korean
const SECONDS_PER_DIGIT = 0.3;
const SECONDS_PER_LETTER = 0.065;
const WIDE = /[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]/;

function secondsOf(character) {
  if (WIDE.test(character)) return SECONDS_PER_WIDE;
  return /[0-9]/.test(character) ? SECONDS_PER_DIGIT : SECONDS_PER_LETTER;
}

function guess(text) {
  let seconds = 0;
  for (const character of text) seconds += secondsOf(character);
  return seconds * SAMPLE_RATE;
}

export class Captions {
  constructor() {
    this.clauses = [];
    this.received = 0;
    this.complete = false;
  }

  get text() {
    return this.clauses.map((clause) => clause.text).join("");
  }

  addText(text) {
    const last = this.clauses.at(-1);
    if (last && last.start === this.received) last.text += text;
    else this.clauses.push({ text, start: this.received });
  }

  addSamples(count) {
    this.received += count;
  }

  /** No more sound comes: the last clause ends where the sound does. */
  finish() {
    this.complete = true;
  }

  /** @param {number} played samples that were played */
  textAt(played) {
    if (this.complete && played >= this.received) return this.text;
    let scale = 1;
    let text = "";
    for (const [index, clause] of this.clauses.entries()) {
      const next = this.clauses[index + 1];
      const known = next !== undefined || this.complete;
      const guessed = guess(clause.text);
      const received = (next ? next.start : this.received) - clause.start;
      const length = known ? received : Math.max(received, guessed * scale);
      if (known && guessed > 0 && received > 0) scale = Math.max(0.5, Math.min(2, received / guessed));
      if (played <= clause.start) break;
      const share = length > 0 ? (played - clause.start) / length : 1;
      text += share >= 1 ? clause.text : wholeWords(clause.text, share);
      if (share < 1) break;
    }
    return text;
  }
}

/** The first `share` of a text by speaking time, up to the end of the word that is being spoken. */
function wholeWords(text, share) {
  const characters = [...text];
  let budget = share * characters.reduce((sum, character) => sum + secondsOf(character), 0);
  let count = 0;
  while (count < characters.length && budget > 0) budget -= secondsOf(characters[count++]);
  const inWord = (character) => character !== undefined && !/\s/.test(character) && !WIDE.test(character);
  while (inWord(characters[count - 1]) && inWord(characters[count])) count++;
  return characters.slice(0, count).join("");
}
