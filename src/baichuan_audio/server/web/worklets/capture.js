/**
 * Microphone -> 24 kHz mono chunks of CHUNK samples, each posted with the context frame at which it ended.
 *
 * Some browsers refuse a microphone in a 24 kHz context; there this runs at the device's rate and resamples.
 */
const TARGET_RATE = 24000;
const CHUNK = 768; // 32 ms, the window of the turn detector
const ZERO_CROSSINGS = 12;

function greatestCommonDivisor(a, b) {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}

/** Streaming polyphase resampler: windowed sinc, cut off below the lower of the two Nyquist frequencies. */
class Resampler {
  constructor(from, to) {
    const divisor = greatestCommonDivisor(from, to);
    this.up = to / divisor;
    this.down = from / divisor;
    const stretch = Math.max(1, from / to);
    this.half = Math.ceil(ZERO_CROSSINGS * stretch);
    this.taps = 2 * this.half;
    this.table = Array.from({ length: this.up }, (_, phase) => this.kernel(phase / this.up, stretch));
    this.input = new Float32Array(this.taps - 1);
    this.phase = 0;
  }

  /** Weights of the taps around a position that lies `fraction` after the middle tap. */
  kernel(fraction, stretch) {
    const weights = new Float32Array(this.taps);
    let sum = 0;
    for (let k = 0; k < this.taps; k++) {
      const x = k - (this.half - 1) - fraction;
      const angle = (Math.PI * x * 0.95) / stretch;
      const window = 0.5 + 0.5 * Math.cos((Math.PI * x) / this.half);
      weights[k] = (angle === 0 ? 1 : Math.sin(angle) / angle) * (Math.abs(x) < this.half ? window : 0);
      sum += weights[k];
    }
    return weights.map((weight) => weight / sum);
  }

  process(samples) {
    const input = new Float32Array(this.input.length + samples.length);
    input.set(this.input);
    input.set(samples, this.input.length);
    const output = [];
    let start = 0;
    while (start + this.taps <= input.length) {
      const weights = this.table[this.phase];
      let value = 0;
      for (let k = 0; k < this.taps; k++) value += weights[k] * input[start + k];
      output.push(value);
      this.phase += this.down;
      start += Math.floor(this.phase / this.up);
      this.phase %= this.up;
    }
    this.input = input.subarray(start);
    return output;
  }
}

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = sampleRate === TARGET_RATE ? null : new Resampler(sampleRate, TARGET_RATE);
    this.chunk = new Float32Array(CHUNK);
    this.filled = 0;
  }

  process([[samples]]) {
    if (!samples) return true;
    for (const value of this.resampler ? this.resampler.process(samples) : samples) {
      this.chunk[this.filled++] = value;
      if (this.filled === CHUNK) this.emit();
    }
    return true;
  }

  emit() {
    this.port.postMessage({ samples: this.chunk, endTime: (currentFrame + 128) / sampleRate }, [this.chunk.buffer]);
    this.chunk = new Float32Array(CHUNK);
    this.filled = 0;
  }
}

registerProcessor("capture", Capture);
