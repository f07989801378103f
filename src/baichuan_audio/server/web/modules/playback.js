/** The model's replies: queued, played, shown as they are heard, cut when interrupted. */
import { Captions } from "./captions.js";
import { SAMPLE_RATE, fromBase64, level, toInt16 } from "./pcm.js";

export class Playback {
  /** @param {object} parts sound, transcript, recording, meter, figures, onStart(), onEnd(turn), onChange() */
  constructor(parts) {
    Object.assign(this, parts);
    this.byItem = new Map();
    this.playing = null;
    this.playedSamples = 0;
  }

  add(item) {
    if (!this.byItem.has(item)) {
      const turn = this.transcript.add("assistant", item);
      this.transcript.setWaiting(turn, true);
      this.byItem.set(item, {
        item,
        turn,
        captions: new Captions(),
        contentIndex: 0,
        turnEnd: null,
        firstPlayed: null, // how many samples had been played of all when its first one was
        position: 0,
        ended: false,
        over: false,
      });
    }
    return this.byItem.get(item);
  }

  /** @param {number | null} turnEnd when the person's turn ended, in milliseconds of performance.now() */
  addSound({ item_id: item, content_index: contentIndex, delta }, turnEnd) {
    const answer = this.add(item);
    if (answer.over) return;
    answer.contentIndex = contentIndex;
    answer.turnEnd ??= turnEnd;
    const samples = fromBase64(delta);
    answer.captions.addSamples(samples.length);
    this.sound.push(item, samples);
  }

  addSpokenText({ item_id: item, delta }) {
    this.add(item).captions.addText(delta);
  }

  addWrittenText({ item_id: item, delta }) {
    const { turn } = this.add(item);
    this.transcript.setWaiting(turn, false);
    this.transcript.setText(turn, turn.text + delta);
  }

  /** Nothing more comes for this item. */
  end(item) {
    const answer = this.byItem.get(item);
    if (!answer || answer.ended) return;
    answer.ended = true;
    answer.captions.finish();
    if (!answer.over) this.sound.end(item);
  }

  /** What the player reports of the samples that left it. */
  report(report) {
    const answer = this.byItem.get(report.item);
    if (report.type === "played") this.played(answer, report);
    else if (report.type === "started") this.started(answer);
    else if (report.type === "finished") this.finished(answer);
    else if (report.type === "gap") this.figures.addGap();
  }

  started(answer) {
    this.playing = answer;
    this.transcript.setWaiting(answer.turn, false);
    if (answer.turnEnd !== null) {
      const seconds = (performance.now() - answer.turnEnd) / 1000 + this.sound.latency;
      this.figures.addDelay(seconds);
      this.transcript.setNote(answer.turn, "speed", "answeredAfter", seconds);
    }
    answer.firstPlayed = this.playedSamples;
    this.onStart();
    this.onChange();
  }

  played(answer, { position, samples, frame, buffered }) {
    this.recording.add("assistant", frame / SAMPLE_RATE, toInt16(samples), this.playedSamples);
    this.meter.set("assistant", level(samples));
    this.playedSamples += samples.length;
    this.figures.addPlayed(samples.length / SAMPLE_RATE, buffered / SAMPLE_RATE);
    if (!answer || answer.over) return;
    answer.position = position;
    this.transcript.setText(answer.turn, answer.captions.textAt(this.audible(position)));
  }

  finished(answer) {
    this.figures.setBuffered(0);
    if (!answer) return;
    answer.over = true;
    this.transcript.setWaiting(answer.turn, false);
    if (answer.captions.text) this.transcript.setText(answer.turn, answer.captions.text);
    if (this.playing === answer) this.playing = null;
    this.keepClip(answer);
    if (answer.turn.text) this.onEnd(answer.turn);
    else this.transcript.remove(answer.turn);
    this.onChange();
  }

  /** What was played of it can be played again. */
  keepClip(answer) {
    if (answer.firstPlayed === null || answer.firstPlayed === this.playedSamples) return;
    this.transcript.setClip(answer.turn, { from: answer.firstPlayed, to: this.playedSamples });
  }

  /** Of the samples that left the player, those that have reached the loudspeaker. */
  audible(position) {
    return Math.max(0, position - Math.round(this.sound.latency * SAMPLE_RATE));
  }

  /** Whether there is sound that was not heard yet. */
  get pending() {
    return [...this.byItem.values()].some((answer) => !answer.over && answer.captions.received > 0);
  }

  /**
   * Silence now. Resolves to what the server must forget: [{item, contentIndex, milliseconds}] where
   * `milliseconds` of that item were heard.
   */
  async cut() {
    const cut = [...this.byItem.values()].filter((answer) => !answer.over);
    for (const answer of cut) answer.over = true;
    const { item, position } = await this.sound.flush();
    this.playing = null;
    this.figures.setBuffered(0);
    const result = [];
    for (const answer of cut) {
      const audible = answer.item === item ? this.audible(position) : 0;
      this.transcript.setWaiting(answer.turn, false);
      if (answer.item === item) this.keepClip(answer);
      if (answer.captions.received > 0) {
        this.transcript.setText(answer.turn, answer.captions.textAt(audible));
        const milliseconds = Math.floor((1000 * audible) / SAMPLE_RATE);
        result.push({ item: answer.item, contentIndex: answer.contentIndex, milliseconds });
      }
      if (answer.turn.text) this.transcript.setInterrupted(answer.turn);
      else this.transcript.remove(answer.turn);
    }
    this.onChange();
    return result;
  }
}
