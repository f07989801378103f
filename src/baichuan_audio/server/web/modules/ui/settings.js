/** The person's choices, stored in this browser; the API key only until the tab is closed. */

const STORAGE_KEY = "baichuan-audio";
const DEFAULTS = {
  microphone: "", // a device id; "" for the system's default
  microphoneName: "",
  volume: 1,
  soundOff: false,
  voice: "",
  instructions: "",
  handsFree: true,
  threshold: 0.5,
  silence: 500,
  padding: 300,
  interruptible: true,
  language: "",
  theme: "auto",
};

function read(storage, name, fallback) {
  try {
    return storage().getItem(name) ?? fallback;
  } catch {
    return fallback; // storage is forbidden here
  }
}

function write(storage, name, value) {
  try {
    storage().setItem(name, value);
  } catch {
    // storage is forbidden here: the choice lasts as long as the page
  }
}

export class Settings {
  constructor() {
    let stored = {};
    try {
      stored = JSON.parse(read(() => localStorage, STORAGE_KEY, "{}"));
    } catch {
      // written by something else: start anew
    }
    for (const [name, value] of Object.entries(DEFAULTS)) {
      this[name] = typeof stored?.[name] === typeof value ? stored[name] : value;
    }
    this.key = read(() => sessionStorage, `${STORAGE_KEY}-key`, "");
  }

  set(name, value) {
    this[name] = value;
    if (name === "key") {
      write(() => sessionStorage, `${STORAGE_KEY}-key`, value);
    } else {
      const stored = Object.fromEntries(Object.keys(DEFAULTS).map((key) => [key, this[key]]));
      write(() => localStorage, STORAGE_KEY, JSON.stringify(stored));
    }
  }

  /** The `session` of session.update. */
  session(model) {
    const detection = {
      type: "server_vad",
      threshold: this.threshold,
      silence_duration_ms: this.silence,
      prefix_padding_ms: this.padding,
      create_response: true,
      interrupt_response: this.interruptible,
    };
    const format = { type: "audio/pcm", rate: 24000 };
    return {
      type: "realtime",
      output_modalities: ["audio"],
      instructions: this.instructions,
      audio: {
        input: { format, turn_detection: this.handsFree ? detection : null, transcription: { model } },
        output: { format, ...(this.voice && { voice: this.voice }) },
      },
    };
  }
}
