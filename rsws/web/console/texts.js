// What the console says, in each of its languages.

export const LANGUAGES = ["en", "id"];

export const TEXTS = {
  signIn: ["Sign in", "Masuk"],
  signOut: ["Sign out", "Keluar"],
  token: ["Token", "Token"],
  tokenHelp: [
    "The gateway's key, or a JWT with rights. It is kept for this tab alone.",
    "Kunci gateway, atau JWT dengan hak akses. Token hanya disimpan untuk tab ini.",
  ],
  signingIn: ["Connecting …", "Menghubungkan …"],
  tokenRefused: ["The gateway does not take this token.", "Gateway tidak menerima token ini."],
  tokenEnded: [
    "Your token has ended. With another one the console goes on where it was.",
    "Token Anda sudah berakhir. Dengan token baru, konsol melanjutkan dari posisi terakhir.",
  ],
  tokenEnding: ["The token ends at {time}.", "Token berakhir pukul {time}."],
  originRefused: [
    "The gateway refuses this page's address: its option --origin has to list {origin}, too.",
    "Gateway menolak alamat halaman ini: opsi --origin harus memuat {origin} juga.",
  ],
  language: ["Language", "Bahasa"],
  theme: ["Theme", "Tema"],
  themeSystem: ["As the system", "Ikuti sistem"],
  themeLight: ["Light", "Terang"],
  themeDark: ["Dark", "Gelap"],
  settings: ["Settings", "Pengaturan"],
  close: ["Close", "Tutup"],
  connecting: ["Connecting …", "Menghubungkan …"],
  connected: ["Connected", "Terhubung"],
  reconnecting: ["Connection lost, trying again …", "Koneksi terputus, mencoba lagi …"],
  gatewayClosed: ["The gateway has closed the connection: {reason}", "Gateway menutup koneksi: {reason}"],
  charts: ["What the gateway is doing", "Aktivitas gateway"],
  delivered: ["Delivered", "Terkirim"],
  clients: ["Clients", "Klien"],
  behind: ["Behind", "Tertinggal"],
  behindHelp: [
    "Subscriptions that read the stream: they join, come back, or lag",
    "Langganan yang sedang membaca stream: baru bergabung, kembali, atau tertinggal",
  ],
  redis: ["Redis", "Redis"],
  up: ["up", "aktif"],
  down: ["down", "mati"],
  perSecond: ["{n}/s", "{n}/dtk"],
  metricsElsewhere: [
    "Its numbers are not here: they are at the address of --admin, or a proxy keeps them back.",
    "Angkanya tidak ada di sini: lihat alamat opsi --admin, atau proxy tidak meneruskannya.",
  ],
  metricsRefused: [
    "The gateway shows its numbers to those who have its secret key.",
    "Gateway hanya menampilkan angkanya kepada pemegang kunci rahasia.",
  ],
  channels: ["Channels", "Kanal"],
  channel: ["Channel", "Kanal"],
  channelsSome: ["{n} of {all}", "{n} dari {all}"],
  channelsCapped: ["the first {n}: search for others", "{n} pertama: gunakan pencarian untuk yang lain"],
  channelsFailed: ["The list can't be read: {error}", "Daftar tidak dapat dibaca: {error}"],
  entries: ["Entries", "Entri"],
  rate: ["Rate", "Laju"],
  rateHelp: ["Entries a second, between two looks", "Entri per detik, antara dua pembacaan"],
  age: ["Age", "Usia"],
  ageHelp: ["Since the last entry", "Sejak entri terakhir"],
  subscribers: ["Subs", "Plgn"],
  subscribersHelp: ["Subscribers, of the process that answers", "Pelanggan, dari proses yang menjawab"],
  search: ["Search channels", "Cari kanal"],
  searchHint: ["Search: name, or news.*", "Cari: nama, atau news.*"],
  loading: ["Looking for channels …", "Mencari kanal …"],
  noChannels: ["No channels yet. Publish to one:", "Belum ada kanal. Kirim pesan ke salah satu:"],
  noMatch: ["No channel matches “{text}”.", "Tidak ada kanal yang cocok dengan “{text}”."],
  openChannel: ["Open “{channel}”", "Buka “{channel}”"],
  backToChannels: ["Back to the channels", "Kembali ke daftar kanal"],
  chooseChannel: [
    "Choose a channel to see what is published, as it comes.",
    "Pilih kanal untuk melihat pesan yang masuk secara langsung.",
  ],
  from: ["From", "Mulai"],
  fromLast: ["last {n}", "{n} terakhir"],
  fromAll: ["beginning", "dari awal"],
  fromNew: ["now on", "sekarang"],
  fromMinutes: ["{n} minutes ago", "{n} menit lalu"],
  fromHours: ["{n} h ago", "{n} jam lalu"],
  fromOther: ["Id, time or number", "Id, waktu, atau jumlah"],
  fromOtherHint: ["id, 2h, -500, 2026-11-23T10:00Z", "id, 2h, -500, 2026-11-23T10:00Z"],
  filter: ["Filter", "Saring"],
  pause: ["Pause", "Jeda"],
  catchUp: ["Catch up", "Lanjutkan"],
  readOn: ["Read on", "Baca lanjutan"],
  history: ["history", "riwayat"],
  live: ["live", "langsung"],
  paused: ["paused", "dijeda"],
  ended: ["ended", "selesai"],
  waiting: ["waiting", "menunggu"],
  messages: ["Messages", "Pesan"],
  messageCount: ["{n} messages", "{n} pesan"],
  messagesKept: ["{n} messages, the newest {kept} of them are here", "{n} pesan, {kept} terbaru ada di sini"],
  messagesShown: ["{shown} shown", "{shown} ditampilkan"],
  noMessages: [
    "Nothing yet: what is published from now on appears here.",
    "Belum ada pesan: yang dikirim mulai sekarang akan muncul di sini.",
  ],
  ruleLive: ["live from here", "langsung mulai di sini"],
  ruleAgain: ["caught up at {time}", "langsung lagi pukul {time}"],
  ruleLost: ["connection lost at {time}", "koneksi terputus pukul {time}"],
  rulePaused: ["paused at {time}", "dijeda pukul {time}"],
  ruleRead: ["{n} messages read: there is more", "{n} pesan sudah dibaca: masih ada lagi"],
  gapTrimmed: [
    "messages are missing here: the stream was trimmed between {from} and {to}",
    "ada pesan yang hilang di sini: stream dipangkas antara {from} dan {to}",
  ],
  gapReset: [
    "the stream was deleted or made anew: what follows is another one",
    "stream dihapus atau dibuat ulang: yang berikut adalah stream lain",
  ],
  theEnd: ["its end", "akhirnya"],
  latest: ["↓ Latest", "↓ Terbaru"],
  data: ["Data of the message", "Data pesan"],
  pretty: ["Pretty", "Rapi"],
  raw: ["Raw", "Mentah"],
  copy: ["Copy", "Salin"],
  copied: ["Copied", "Tersalin"],
  bytes: ["{n} bytes", "{n} byte"],
  publish: ["Publish", "Kirim"],
  publishLabel: ["Message to publish, as JSON", "Pesan yang akan dikirim, dalam JSON"],
  publishHint: ['{"text": "hi"}', '{"text": "halo"}'],
  publishing: ["Sending …", "Mengirim …"],
  published: ["Stored as {id}, {ms} ms", "Tersimpan sebagai {id}, {ms} md"],
  publishedBefore: ["It was stored before, as {id}", "Sudah tersimpan sebelumnya, sebagai {id}"],
  notJson: [
    'That is not JSON: {error}. A text needs quotes: "hi"',
    'Itu bukan JSON: {error}. Teks perlu tanda kutip: "halo"',
  ],
  notStored: ["Not stored: {error}", "Tidak tersimpan: {error}"],
  outcomeUnknown: [
    "It may be stored or not: {error}. Publish again: the gateway stores it once.",
    "Belum pasti tersimpan: {error}. Kirim lagi: gateway hanya menyimpannya satu kali.",
  ],
  unreachable: ["the gateway can't be reached", "gateway tidak dapat dihubungi"],
  redis_unavailable: ["Redis can't be reached", "Redis tidak dapat dihubungi"],
  rate_limited: ["too many in a short time", "terlalu banyak dalam waktu singkat"],
  not_allowed: ["the token does not allow it: {error}", "token tidak mengizinkannya: {error}"],
  channel_unreadable: [
    "the key exists in Redis, and is no stream that can be read",
    "kunci itu ada di Redis, tetapi bukan stream yang dapat dibaca",
  ],
};

export let language = LANGUAGES[0];

export function speak(wanted) {
  language = LANGUAGES.includes(wanted) ? wanted : LANGUAGES[0];
  document.documentElement.lang = language;
  for (const [attribute, set] of Object.entries({
    "data-t": (element, text) => (element.textContent = text),
    "data-t-label": (element, text) => (element.ariaLabel = element.title = text),
    "data-t-title": (element, text) => (element.title = text),
    "data-t-placeholder": (element, text) => (element.placeholder = text),
  }))
    for (const each of document.querySelectorAll(`[${attribute}]`)) set(each, t(each.getAttribute(attribute)));
}

export function t(key, values = {}) {
  const text = TEXTS[key][LANGUAGES.indexOf(language)];
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

// What went wrong, as far as possible in the reader's language; the gateway's own text is English, or the old server's.
export const explain = ({ code, message }) => (Object.hasOwn(TEXTS, code) ? t(code, { error: message }) : message);

const formats = new Map();

// Making one takes a hundred times as long as using it.
function format(Format, value, options = {}) {
  const key = `${Format.name} ${language} ${JSON.stringify(options)}`;
  if (!formats.has(key)) formats.set(key, new Format(language, options));
  return formats.get(key).format(value);
}

export const number = (value) => format(Intl.NumberFormat, value);
export const rate = (perSecond) => t("perSecond", { n: format(Intl.NumberFormat, perSecond, { maximumSignificantDigits: perSecond < 100 ? 2 : 4 }) });

const UNITS = [["day", 86_400], ["hour", 3600], ["minute", 60], ["second", 1]];

export function age(seconds) {
  const [unit, size] = UNITS.find(([, size]) => seconds >= size) ?? ["second", 1];
  return format(Intl.NumberFormat, Math.floor(Math.max(0, seconds) / size), { style: "unit", unit, unitDisplay: "narrow" });
}

export const clock = (ms, options = { timeStyle: "medium" }) => format(Intl.DateTimeFormat, ms, { ...options, hour12: false });
