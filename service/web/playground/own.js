// The visitor's own photographs: kept in this browser, so that a reload and "back" find them. Never sent from here.

const STORE = "photographs";
const MOST_BYTES = 64 * 2 ** 20;  // of all that are kept; the oldest go first
const LONGEST = 24 * 3600_000;    // milliseconds that one is kept

const known = new Map();  // by id, those of this visit
let kept = new Set();     // ids of those that a reload will find

/** Give each photograph an id, and keep as many of them as there is room for, as one group. */
export async function keep(photos) {
  const at = Date.now();
  const group = `${at}-${Math.random().toString(36).slice(2)}`;
  photos.forEach((photo, order) => {
    photo.id = `${group}-${order}`;
    known.set(photo.id, photo);
  });
  await stored("readwrite", async (store) => {
    const others = (await all(store)).toSorted((one, other) => other.at - one.at);
    let room = MOST_BYTES;
    for (const [order, {id, name, blob}] of photos.entries()) {
      if (blob.size > room) continue;
      room -= blob.size;
      store.put({id, group, order, name, blob, at});
      kept.add(id);
    }
    for (const {id, blob, at: then} of others) {
      if (blob.size <= room && at - then < LONGEST) {
        room -= blob.size;
      } else {
        store.delete(id);
        kept.delete(id);
      }
    }
  });
}

/** Whether a reload will find this photograph. */
export const isKept = ({id}) => kept.has(id);

/** The photographs that came with the one of this id, in order; none if it is gone. */
export async function groupOf(id) {
  if (known.has(id)) return [...known.values()].filter((photo) => groupIn(photo.id) === groupIn(id));
  const rows = await stored("readonly", all) ?? [];
  const found = rows.filter((row) => row.group === groupIn(id) && Date.now() - row.at < LONGEST);
  for (const {id: each, name, blob} of found.sort((one, other) => one.order - other.order)) {
    known.set(each, {id: each, name, blob});
    kept.add(each);
  }
  return found.map((row) => known.get(row.id));
}

/** Forget every photograph, in every tab. */
export async function forget() {
  known.clear();
  kept = new Set();
  await stored("readwrite", (store) => store.clear());
}

const groupIn = (id) => String(id).split("-").slice(0, 2).join("-");

const all = (store) => new Promise((resolve, reject) => {
  const asked = store.getAll();
  asked.onsuccess = () => resolve(asked.result);
  asked.onerror = () => reject(asked.error);
});

/** What `work` makes of the store. Undefined where a browser forbids to store, or has no room: nothing depends on it. */
async function stored(mode, work) {
  try {
    const opened = await new Promise((resolve, reject) => {
      const asked = indexedDB.open("pellucid", 1);
      asked.onupgradeneeded = () => asked.result.createObjectStore(STORE, {keyPath: "id"});
      asked.onsuccess = () => resolve(asked.result);
      asked.onerror = () => reject(asked.error);
    });
    try {
      const transaction = opened.transaction(STORE, mode);
      const done = new Promise((resolve, reject) => {
        transaction.oncomplete = resolve;
        transaction.onabort = () => reject(transaction.error);
      });
      const [found] = await Promise.all([work(transaction.objectStore(STORE)), done]);
      return found;
    } finally {
      opened.close();
    }
  } catch {
    if (mode === "readwrite") kept = new Set();
    return undefined;
  }
}
