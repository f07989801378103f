/** The protocol's events as they pass, newest last; long base64 is left out, runs of one kind are counted. */

const KEPT = 300;

export class EventLog {
  constructor(list, empty) {
    Object.assign(this, { list, empty, last: null });
  }

  add(direction, event) {
    const kind = `${direction} ${event.type}`;
    if (this.last?.kind === kind && this.list.lastElementChild) {
      this.last.count += 1;
      this.last.counter.textContent = ` × ${this.last.count}`;
      this.last.body.textContent = pretty(event);
      return;
    }
    const entry = document.createElement("li");
    const details = document.createElement("details");
    const summary = document.createElement("summary");
    const arrow = document.createElement("span");
    arrow.className = direction;
    arrow.textContent = direction === "sent" ? "↑ " : "↓ ";
    const counter = document.createElement("span");
    const time = document.createElement("time");
    time.textContent = new Date().toTimeString().slice(0, 8);
    summary.append(arrow, event.type, counter, time);
    const body = document.createElement("pre");
    body.textContent = pretty(event);
    details.append(summary, body);
    entry.append(details);
    const atEnd = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 40;
    this.list.append(entry);
    while (this.list.children.length > KEPT) this.list.firstElementChild.remove();
    if (atEnd) this.list.scrollTop = this.list.scrollHeight;
    this.empty.hidden = true;
    this.last = { kind, count: 1, counter, body };
  }
}

function pretty(event) {
  const short = (key, value) =>
    (key === "audio" || key === "delta") && typeof value === "string" && value.length > 200
      ? `(${value.length} characters)`
      : value;
  return JSON.stringify(event, short, 2);
}
