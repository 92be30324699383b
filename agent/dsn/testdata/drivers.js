// Connects by each connection string of its standard input, a JSON array of {name, driver, url}, and prints the same with
// {error, encrypted}.
const { createRequire } = require("module");
const load = createRequire(process.cwd() + "/");
process.on("warning", () => {});
const close = (p) => Promise.resolve(p).catch(() => {});
const drivers = {
  async pg(url) {
    const { Client } = load("pg");
    const c = new Client({ connectionString: url, connectionTimeoutMillis: 60000 });
    c.on("error", () => {});
    try {
      await c.connect();
      return (await c.query("select ssl from pg_stat_ssl where pid = pg_backend_pid()")).rows[0].ssl;
    } finally { await close(c.end()); }
  },
  async mysql2(url) {
    const c = await load("mysql2/promise").createConnection(url);
    try {
      return (await c.query("show status like 'Ssl_cipher'"))[0][0].Value !== "";
    } finally { await close(c.end()); }
  },
  async ioredis(url) {
    const Redis = load("ioredis");
    const c = new (Redis.default || Redis)(url, { lazyConnect: true, retryStrategy: null, maxRetriesPerRequest: 0 });
    let why;
    c.on("error", (e) => { why = e; });
    try {
      await c.connect();
      return (await c.ping()) === "PONG" && url.startsWith("rediss");
    } catch (e) { throw why || e; } finally { c.disconnect(); }
  },
  async mongodb(url) {
    const { MongoClient } = load("mongodb");
    const c = new MongoClient(url, { serverSelectionTimeoutMS: 60000 });
    // It would try again for all of that time.
    const failed = new Promise((_, reject) => c.on("serverHeartbeatFailed", (e) => reject(e.failure)));
    try {
      await Promise.race([c.db("admin").command({ ping: 1 }), failed]);
      return c.options.tls;
    } finally { await close(c.close(true)); }
  },
};
(async () => {
  const out = [];
  for (const t of JSON.parse(require("fs").readFileSync(0, "utf8"))) {
    try { out.push({ ...t, encrypted: await drivers[t.driver](t.url) }); } catch (e) { out.push({ ...t, error: String(e.cause || e) }); }
  }
  console.log(JSON.stringify(out));
  process.exit(0);
})();
