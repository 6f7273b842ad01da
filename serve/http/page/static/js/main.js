// Starts the page: tabs, the API key, and whether the server is there.

import * as api from "./api.js";
import { byId } from "./dom.js";
import { Transcribe } from "./transcribe.js";

const TABS = ["transcribe", ...(document.body.dataset.live === "on" ? ["live"] : []), "cluster"];
let cluster = null;
let live = null;

const transcribe = new Transcribe(askForKey);

/** Show a view; its name stands in the address, so that it can be kept. */
async function show(name) {
  for (const tab of TABS) {
    const chosen = tab === name;
    byId(`tab-${tab}`).setAttribute("aria-selected", String(chosen));
    byId(`tab-${tab}`).tabIndex = chosen ? 0 : -1;
    byId(`view-${tab}`).hidden = !chosen;
  }
  if (name === "live") {
    const { Live } = await import("./live.js");
    live ??= new Live(byId("view-live"), askForKey);
    live.show();
  }
  if (name === "cluster") {
    // Its plots are loaded for whoever looks at them.
    const { Cluster } = await import("./cluster.js");
    cluster ??= new Cluster(byId("view-cluster"), askForKey);
    cluster.start();
  } else cluster?.stop();
}

for (const [index, tab] of TABS.entries()) {
  const button = byId(`tab-${tab}`);
  button.hidden = false;
  button.addEventListener("click", () => (location.hash = tab === "transcribe" ? "" : tab));
  button.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = byId(`tab-${TABS[(index + step + TABS.length) % TABS.length]}`);
    next.focus();
    next.click();
  });
}
const named = () => show(TABS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "transcribe");
addEventListener("hashchange", named);

/** Ask for the key, saying why; what was refused goes again with the new one. */
function askForKey(error) {
  const dialog = byId("key-dialog");
  byId("change-key").hidden = false;
  if (dialog.open) return;
  const fault = byId("key-fault");
  fault.hidden = !api.key.get();
  fault.textContent = api.key.get() ? "This key is not accepted." : "";
  byId("key").value = "";
  dialog.returnValue = "";
  dialog.showModal();
}

byId("change-key").addEventListener("click", () => {
  byId("key-fault").hidden = true;
  byId("key").value = "";
  byId("key-dialog").showModal();
});
byId("key-dialog").addEventListener("close", async () => {
  if (byId("key-dialog").returnValue !== "use") return;
  api.key.set(byId("key").value.trim());
  byId("key").value = "";
  if (await load()) {
    transcribe.retryRefused();
    named();
  }
});

/** Get what the page needs from the server; returns whether it was given. */
async function load() {
  const standing = byId("standing");
  try {
    await transcribe.load();
    standing.textContent = "";
    byId("change-key").hidden = !api.key.get();
    return true;
  } catch (error) {
    if (!(error instanceof api.ApiError)) throw error;
    if (error.status === 401) askForKey(error);
    else {
      standing.textContent = error.message;
      setTimeout(load, 3000);
    }
    return false;
  }
}

named();
load();
