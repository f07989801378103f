/**
 * Detects replies that interrupt themselves: the loudspeaker reaches the microphone and is taken for a voice.
 *
 * A voice that cut a reply counts as echo when nothing was understood of it, or mostly words of that reply.
 */
const RECENT = 3; // replies looked at
const ECHOES = 2; // of them, that make it likely
const OVERLAP = 0.6; // share of the understood words that the reply has as well
const FEWEST_WORDS = 2; // a single word may well be repeated by a person

export class EchoDetector {
  /** @param {() => void} onEcho */
  constructor(onEcho) {
    this.onEcho = onEcho;
    this.reset();
  }

  reset() {
    this.recent = [];
    this.pending = new Map(); // item of the voice -> the reply that it cut
  }

  /** @param {string} item of the voice  @param {string} reply the text whose sound was playing */
  interrupted(item, reply) {
    this.pending.set(item, reply);
  }

  /** What was understood of an item; "" for nothing. */
  transcribed(item, text) {
    if (!this.pending.has(item)) return;
    this.judge(isEcho(text, this.pending.get(item)));
    this.pending.delete(item);
  }

  /** A reply was played to its end. */
  completed() {
    this.judge(false);
  }

  judge(echo) {
    this.recent = [...this.recent, echo].slice(-RECENT);
    if (echo && this.recent.filter(Boolean).length >= ECHOES) this.onEcho();
  }
}

function isEcho(text, reply) {
  const [understood, played] = [tokens(text), new Set(tokens(reply))];
  if (understood.length === 0) return true;
  const shared = understood.filter((token) => played.has(token)).length;
  return understood.length >= FEWEST_WORDS && shared / understood.length >= OVERLAP;
}

/** Words; in scripts without blanks, characters. */
function tokens(text) {
  const spaced = text.toLowerCase().replace(/[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}]/gu, " $& ");
  return spaced.match(/[\p{L}\p{N}']+/gu) ?? [];
}
