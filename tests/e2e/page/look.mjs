// Looks at the page of the stats port in a real browser, and prints what it saw as one line of JSON per question.
// Usage: node look.mjs URL FOLDER. It is driven by lines on standard input, so that the test decides when to look.
import { readFile, writeFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { createRequire } from "node:module";

const [url, folder] = process.argv.slice(2);
const { chromium } = createRequire(`${folder}/`)("playwright-core");

// Without these flags Chromium asks the network for things that a closed one refuses.
const quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: quiet });
const errors = [];
const COLOURS = 64;

async function open(width, colorScheme) {
  const page = await (await browser.newContext({ viewport: { width, height: 900 }, colorScheme })).newPage();
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  page.on("dialog", (dialog) => { errors.push(`a dialog: ${dialog.message()}`); dialog.dismiss(); });
  await page.goto(url);
  return page;
}

// Waits until a page has been told twice more.
async function told(page) {
  const now = await page.evaluate(() => Number(document.body.dataset.updates ?? 0));
  await page.waitForFunction((now) => Number(document.body.dataset.updates ?? 0) >= now + 2, now);
}

// What axe-core finds on a page.
async function barriers(page) {
  await page.evaluate(await readFile(`${folder}/node_modules/axe-core/axe.min.js`, "utf8"));
  const { violations } = await page.evaluate(() => axe.run());
  return violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html} ${node.failureSummary}`));
}

const page = await open(1200, "light");
const answers = {
  // The text of an element, once the page knows what is so now.
  text: async (id) => {
    await told(page);
    return page.textContent(`#${id}`);
  },
  // Waits until an element's text contains something.
  until: async (id, words) => {
    await page.waitForFunction(([id, words]) => document.getElementById(id).textContent.includes(words), [id, words]);
    return true;
  },
  // How many elements of a kind a hostile name has brought about.
  elements: (_, selector) => page.locator(selector).count(),
  // What the focus of each helped figure shows, by keyboard.
  help: async () => {
    await page.focus("#law");
    return page.textContent("#help");
  },
  title: () => page.title(),
  // How often Tab is pressed until it leaves the page.
  stops: () => page.locator("a, button, input, summary, [tabindex='0']").count(),
  shoot: async () => {
    await page.screenshot({ path: `${folder}/page-wide.png`, fullPage: true });
    const phone = await open(390, "dark");
    await told(phone);
    const overflow = await phone.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    await phone.screenshot({ path: `${folder}/page-phone.png`, fullPage: true });
    return overflow <= 0;
  },
  // What axe-core finds that keeps somebody out, by light and in the dark, on a desk and a phone, with all that is folded
  // away unfolded too.
  barriers: async () => {
    const found = [];
    for (const [width, colorScheme] of [[1200, "light"], [1200, "dark"], [390, "light"]]) {
      const looked = await open(width, colorScheme);
      await told(looked);
      found.push(...await barriers(looked));
      await looked.evaluate(() => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
      await told(looked);
      found.push(...await barriers(looked));
      await looked.context().close();
    }
    return found;
  },
  // The same of the page as it stands, of a daemon that is gone.
  "barriers-gone": async () => {
    const light = await barriers(page);
    await page.emulateMedia({ colorScheme: "dark" });
    return [...light, ...await barriers(page)];
  },
  // A picture in few colours, and so a small file: `picture WIDTH SCHEME PATH`.
  picture: async (width, schemeAndPath) => {
    const [colorScheme, path] = schemeAndPath.split(" ");
    const looked = await open(Number(width), colorScheme);
    await told(looked);
    const { decode, encode, toRGBA8 } = createRequire(`${folder}/`)("upng-js");
    const png = decode(await looked.screenshot({ fullPage: true }));
    const small = encode([toRGBA8(png)[0]], png.width, png.height, COLOURS);
    await writeFile(path, Buffer.from(small));
    return small.byteLength;
  },
  errors: () => errors,
};

for await (const line of createInterface({ input: process.stdin })) {
  const [what, id, ...rest] = line.split(" ");
  console.log(JSON.stringify(await answers[what](id, rest.join(" "))));
}
await browser.close();
