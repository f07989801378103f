/**
 * Plays queued samples of one item after another and tells exactly which of them left for the loudspeaker.
 *
 * In:  {type: "push", item, samples}   samples [S] float32 at the context's rate
 *      {type: "end", item}             nothing more comes for this item
 *      {type: "flush", id}             forget everything that was not played
 * Out: {type: "started", item, frame}
 *      {type: "played", item, position, samples, frame, buffered}   what left since the last report; position in samples
 *      {type: "gap", item, samples}    the queue ran dry for that long while the item went on
 *      {type: "finished", item, position}
 *      {type: "flushed", id, item, position}
 */
const REPORT = 1024; // samples, 43 ms at 24 kHz
const FADE = 120; // samples, 5 ms: what is cut off must not click
const START = 0.06; // seconds to hold before an item's first sample
const REFILL = 0.2; // seconds to hold after the queue ran dry

class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.queue = [];
    this.buffered = 0;
    this.item = null;
    this.position = 0;
    this.running = false;
    this.dryFrom = null;
    this.report = { samples: new Float32Array(REPORT), filled: 0, frame: 0 };
    this.port.onmessage = ({ data }) => this[data.type](data);
  }

  push({ item, samples }) {
    this.queue.push({ item, samples, offset: 0 });
    this.buffered += samples.length;
  }

  end({ item }) {
    this.queue.push({ item, mark: "finished" });
  }

  flush({ id }) {
    if (!this.running) {
      this.port.postMessage({ type: "flushed", id, item: this.item, position: this.position });
      this.clear();
      return;
    }
    const head = this.queue[0];
    const left = head?.samples && head.item === this.item ? head.samples.subarray(head.offset) : new Float32Array(0);
    const tail = left.slice(0, FADE).map((value, index, all) => value * (1 - (index + 1) / all.length));
    this.queue = [
      { item: this.item, samples: tail, offset: 0 },
      { item: this.item, mark: "flushed", id },
    ];
    this.buffered = tail.length;
  }

  clear() {
    this.queue = [];
    this.buffered = 0;
    this.item = null;
    this.position = 0;
    this.running = false;
    this.dryFrom = null;
  }

  process(_, [[output]]) {
    let filled = 0;
    while (filled < output.length && (this.running || this.start(filled))) {
      const head = this.queue[0];
      if (!head) {
        this.runDry(filled);
      } else if (head.mark) {
        this.queue.shift();
        this.leave(head);
      } else {
        if (head.item !== this.item) this.enter(head.item, filled);
        filled += this.copy(head, output, filled);
      }
    }
    return true;
  }

  /** Whether enough is queued to begin, or to go on after a gap. */
  start(filled) {
    const hold = (this.item === null ? START : REFILL) * sampleRate;
    const complete = this.queue.some((entry) => entry.mark);
    if (this.queue.length === 0 || (this.buffered < hold && !complete)) return false;
    this.running = true;
    if (this.dryFrom !== null) {
      this.port.postMessage({ type: "gap", item: this.item, samples: currentFrame + filled - this.dryFrom });
      this.dryFrom = null;
    }
    return true;
  }

  enter(item, filled) {
    this.sendReport();
    this.item = item;
    this.position = 0;
    this.port.postMessage({ type: "started", item, frame: currentFrame + filled });
  }

  copy(head, output, filled) {
    const count = Math.min(output.length - filled, head.samples.length - head.offset);
    const part = head.samples.subarray(head.offset, head.offset + count);
    output.set(part, filled);
    this.record(part, currentFrame + filled);
    head.offset += count;
    this.position += count;
    this.buffered -= count;
    if (head.offset === head.samples.length) this.queue.shift();
    if (this.report.filled === REPORT) this.sendReport();
    return count;
  }

  leave({ mark, id, item }) {
    this.sendReport();
    if (item === this.item || mark === "flushed") {
      this.port.postMessage({ type: mark, id, item, position: this.position });
      if (mark === "flushed") this.clear();
      this.item = null;
      this.position = 0;
    } else {
      this.port.postMessage({ type: mark, item, position: 0 });
    }
    this.running = false;
  }

  runDry(filled) {
    this.sendReport();
    this.running = false;
    this.dryFrom = currentFrame + filled;
  }

  record(part, frame) {
    const report = this.report;
    let done = 0;
    while (done < part.length) {
      if (report.filled === REPORT) this.sendReport(done);
      if (report.filled === 0) report.frame = frame + done;
      const count = Math.min(part.length - done, REPORT - report.filled);
      report.samples.set(part.subarray(done, done + count), report.filled);
      report.filled += count;
      done += count;
    }
  }

  /** `ahead`: how many recorded samples are not yet counted in `position`. */
  sendReport(ahead = 0) {
    const { samples, filled, frame } = this.report;
    if (filled === 0) return;
    const played = samples.slice(0, filled);
    const position = this.position + ahead;
    this.port.postMessage({ type: "played", item: this.item, position, samples: played, frame, buffered: this.buffered }, [
      played.buffer,
    ]);
    this.report.filled = 0;
  }
}

registerProcessor("player", Player);
