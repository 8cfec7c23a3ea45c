// Which words differ between two texts: the longest common subsequence of words.

const MOST_PAIRS = 4_000_000; // of words that are compared; of longer texts all is marked

function words(text) {
  return text.match(/\s*\S+/g) ?? [];
}

// Pieces of `text` beside `other`: {kind: "same" | "new" | "gone", text}.
function difference(other, text) {
  const before = words(other);
  const after = words(text);
  const same = (i, j) => before[i].trim() === after[j].trim();
  let start = 0;
  while (start < before.length && start < after.length && same(start, start)) start++;
  let ends = [before.length, after.length];
  while (ends[0] > start && ends[1] > start && same(ends[0] - 1, ends[1] - 1)) {
    ends = [ends[0] - 1, ends[1] - 1];
  }
  const pieces = after.slice(0, start).map((word) => ["same", word]);
  pieces.push(...middle(before.slice(start, ends[0]), after.slice(start, ends[1])));
  pieces.push(...after.slice(ends[1]).map((word) => ["same", word]));
  return joined(pieces);
}

function middle(before, after) {
  const width = after.length + 1;
  if (before.length * after.length > MOST_PAIRS) {
    return [...before.map((word) => ["gone", word]), ...after.map((word) => ["new", word])];
  }
  const longest = new Uint32Array((before.length + 1) * width);
  for (let i = before.length - 1; i >= 0; i--) {
    for (let j = after.length - 1; j >= 0; j--) {
      const at = i * width + j;
      longest[at] = before[i].trim() === after[j].trim()
        ? longest[at + width + 1] + 1
        : Math.max(longest[at + width], longest[at + 1]);
    }
  }
  const pieces = [];
  let i = 0;
  let j = 0;
  while (i < before.length || j < after.length) {
    if (i < before.length && j < after.length && before[i].trim() === after[j].trim()) {
      pieces.push(["same", after[j]]);
      i++;
      j++;
    } else if (j >= after.length
      || (i < before.length && longest[(i + 1) * width + j] >= longest[i * width + j + 1])) {
      pieces.push(["gone", before[i++]]);
    } else {
      pieces.push(["new", after[j++]]);
    }
  }
  return pieces;
}

function joined(pieces) {
  const found = [];
  for (const [kind, text] of pieces) {
    if (found.length && found.at(-1).kind === kind) found.at(-1).text += text;
    else found.push({ kind, text: found.length && !/^\s/.test(text) ? ` ${text}` : text });
  }
  return found;
}
