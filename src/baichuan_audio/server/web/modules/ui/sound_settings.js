/** The fields for microphone and volume, and the button that turns the replies' sound off. */
import { t } from "./i18n.js";

export class SoundSettings {
  /**
   * @param {(id: string) => HTMLElement} element
   * @param {import("./settings.js").Settings} settings
   * @param {import("../net/conversation.js").Conversation} conversation
   */
  constructor(element, settings, conversation) {
    Object.assign(this, { element, settings, conversation });
    element("microphone").addEventListener("change", () => this.choose(element("microphone")));
    element("volume").addEventListener("input", () => this.setVolume(Number(element("volume").value)));
    element("sound").addEventListener("click", () => this.setSoundOff(!this.silent));
    this.showVolume();
  }

  /** Whether replies are inaudible. */
  get silent() {
    return this.settings.soundOff || this.settings.volume === 0;
  }

  /** List the microphones, with the chosen one among them even if it is not connected. */
  async showDevices() {
    const listing = (this.listing = {});
    const devices = await this.conversation.microphone.devices();
    if (listing !== this.listing) return; // a newer list, with names after permission, may have come first
    const known = devices.filter(({ id }) => id !== "");
    const options = [new Option(t("microphoneDefault"), "")];
    for (const [index, { id, label }] of known.entries()) {
      options.push(new Option(label || t("microphoneUnnamed", { n: index + 1 }), id));
    }
    const { microphone: chosen, microphoneName: name } = this.settings;
    if (chosen && !known.some(({ id }) => id === chosen)) {
      options.push(new Option(known.length ? t("microphoneAbsent", { name }) : name, chosen));
    }
    const field = this.element("microphone");
    field.replaceChildren(...options);
    field.value = chosen;
    this.element("microphone-later").hidden = known.length > 0;
  }

  choose({ value, selectedOptions: [selected] }) {
    this.settings.set("microphoneName", value && selected.textContent);
    this.settings.set("microphone", value);
    this.conversation.switchMicrophone();
  }

  setVolume(volume) {
    this.settings.set("volume", volume);
    this.setSoundOff(volume === 0);
  }

  setSoundOff(off) {
    if (!off && this.settings.volume === 0) this.settings.set("volume", 1);
    this.settings.set("soundOff", off);
    this.showVolume();
  }

  showVolume() {
    const { volume } = this.settings;
    this.conversation.sound.setVolume(this.silent ? 0 : volume);
    this.element("volume").value = volume;
    this.element("volume-value").textContent = this.silent ? t("isSoundOff") : t("percent", { n: Math.round(volume * 100) });
    const button = this.element("sound");
    button.classList.toggle("off", this.silent);
    button.title = t(this.silent ? "soundOn" : "soundOff");
    button.setAttribute("aria-label", button.title);
    this.element("sound-icon").setAttribute("href", this.silent ? "#i-sound-off" : "#i-sound");
  }
}
