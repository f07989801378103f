/** The Realtime protocol's transport: one WebSocket, JSON events both ways. */

const KEY_PROTOCOL = "openai-insecure-api-key."; // browsers cannot set headers on a WebSocket
const CARRIED = /^[\w!#$%&'*+.^`|~-]*$/; // what a subprotocol's name may be made of (RFC 6455, section 4.1)
const FULL = 1 << 20; // bytes waiting to be sent: some ten seconds of speech

/** Whether a browser can send that key. */
export const carries = (key) => CARRIED.test(key);

export class Realtime {
  /**
   * @param {object} handlers onEvent(event), onSent(event), onClose({code, reason, opened})
   */
  constructor(handlers) {
    this.handlers = handlers;
    this.socket = null;
    this.count = 0;
  }

  get open() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  /** Whether the network does not keep up with what is sent. */
  get congested() {
    return this.open && this.socket.bufferedAmount > FULL;
  }

  connect(model, key) {
    const url = new URL("v1/realtime", document.baseURI);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    if (model) url.searchParams.set("model", model);
    const protocols = key ? ["realtime", KEY_PROTOCOL + key] : ["realtime"];
    const socket = new WebSocket(url, protocols);
    let opened = false;
    this.socket = socket;
    socket.onopen = () => (opened = true);
    socket.onmessage = ({ data }) => {
      if (socket === this.socket) this.handlers.onEvent(JSON.parse(data));
    };
    socket.onclose = ({ code, reason }) => {
      if (socket !== this.socket) return;
      this.socket = null;
      this.handlers.onClose({ code, reason, opened });
    };
  }

  /** @returns {string} the event's id, "" when there is no connection */
  send(event, prefix = "page") {
    if (!this.open) return "";
    const complete = { event_id: `${prefix}_${++this.count}`, ...event };
    this.socket.send(JSON.stringify(complete));
    this.handlers.onSent(complete);
    return complete.event_id;
  }

  close() {
    const socket = this.socket;
    this.socket = null;
    socket?.close(1000);
  }
}

/** The server's models: {status, models}. status 0: it cannot be reached. */
export async function askServer(key) {
  try {
    const headers = key ? { Authorization: `Bearer ${key}` } : {};
    const response = await fetch(new URL("v1/models", document.baseURI), { headers, cache: "no-store" });
    return { status: response.status, models: response.ok ? (await response.json()).data : [] };
  } catch {
    return { status: 0, models: [] };
  }
}
