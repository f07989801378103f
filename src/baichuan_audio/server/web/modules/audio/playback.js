/** The model's replies: queued, played, their text shown in step with the audio, cut when interrupted. */
import { Captions } from "./captions.js";
import { SAMPLE_RATE, fromBase64, level, toInt16 } from "./pcm.js";

export class Playback {
  /** @param {object} parts sound, transcript, recording, meter, metrics, onStart(), onEnd(turn), onChange() */
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
    const reply = this.add(item);
    if (reply.over) return;
    reply.contentIndex = contentIndex;
    reply.turnEnd ??= turnEnd;
    const samples = fromBase64(delta);
    reply.captions.addSamples(samples.length);
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
    const reply = this.byItem.get(item);
    if (!reply || reply.ended) return;
    reply.ended = true;
    reply.captions.finish();
    if (!reply.over) this.sound.end(item);
  }

  /** What the player reports of the samples that left it. */
  report(report) {
    const reply = this.byItem.get(report.item);
    if (report.type === "played") this.played(reply, report);
    else if (report.type === "started") this.started(reply);
    else if (report.type === "finished") this.finished(reply);
    else if (report.type === "gap") this.metrics.addGap();
  }

  started(reply) {
    this.playing = reply;
    this.transcript.setWaiting(reply.turn, false);
    if (reply.turnEnd !== null) {
      const seconds = (performance.now() - reply.turnEnd) / 1000 + this.sound.latency;
      this.metrics.addDelay(seconds);
      this.transcript.setNote(reply.turn, "speed", "answeredAfter", seconds);
    }
    reply.firstPlayed = this.playedSamples;
    this.onStart();
    this.onChange();
  }

  played(reply, { position, samples, frame, buffered }) {
    this.recording.add("assistant", frame / SAMPLE_RATE, toInt16(samples), this.playedSamples);
    this.meter.set("assistant", level(samples));
    this.playedSamples += samples.length;
    this.metrics.addPlayed(samples.length / SAMPLE_RATE, buffered / SAMPLE_RATE);
    if (!reply || reply.over) return;
    reply.position = position;
    this.transcript.setText(reply.turn, reply.captions.textAt(this.audible(position)));
  }

  finished(reply) {
    this.metrics.setBuffered(0);
    if (!reply) return;
    reply.over = true;
    this.transcript.setWaiting(reply.turn, false);
    if (reply.captions.text) this.transcript.setText(reply.turn, reply.captions.text);
    if (this.playing === reply) this.playing = null;
    this.keepClip(reply);
    if (reply.turn.text) this.onEnd(reply.turn);
    else this.transcript.remove(reply.turn);
    this.onChange();
  }

  /** What was played of it can be played again. */
  keepClip(reply) {
    if (reply.firstPlayed === null || reply.firstPlayed === this.playedSamples) return;
    this.transcript.setClip(reply.turn, { from: reply.firstPlayed, to: this.playedSamples });
  }

  /** Of the samples that left the player, those that have reached the loudspeaker. */
  audible(position) {
    return Math.max(0, position - Math.round(this.sound.latency * SAMPLE_RATE));
  }

  /** Whether there is sound that was not played yet. */
  get pending() {
    return [...this.byItem.values()].some((reply) => !reply.over && reply.captions.received > 0);
  }

  /**
   * Silence now. Resolves to what the server must truncate: [{item, contentIndex, milliseconds}] where
   * `milliseconds` of that item were played.
   */
  async cut() {
    const cut = [...this.byItem.values()].filter((reply) => !reply.over);
    for (const reply of cut) reply.over = true;
    const { item, position } = await this.sound.flush();
    this.playing = null;
    this.metrics.setBuffered(0);
    const result = [];
    for (const reply of cut) {
      const audible = reply.item === item ? this.audible(position) : 0;
      this.transcript.setWaiting(reply.turn, false);
      if (reply.item === item) this.keepClip(reply);
      if (reply.captions.received > 0) {
        this.transcript.setText(reply.turn, reply.captions.textAt(audible));
        const milliseconds = Math.floor((1000 * audible) / SAMPLE_RATE);
        result.push({ item: reply.item, contentIndex: reply.contentIndex, milliseconds });
      }
      if (reply.turn.text) this.transcript.setInterrupted(reply.turn);
      else this.transcript.remove(reply.turn);
    }
    this.onChange();
    return result;
  }
}
