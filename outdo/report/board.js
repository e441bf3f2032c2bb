// Episodes to step through: a drawn chess board where the steps have positions, text otherwise.
"use strict";
(() => {
  const { data, el, svg, hash } = window.outdo;
  const SQUARE = 45;
  // Silhouettes on a 45 x 45 square, drawn for this page.
  const FOOT = "M10 39.5h25v-3.6c0-1.2-.9-1.9-2-1.9H12c-1.1 0-2 .7-2 1.9z";
  const PIECES = {
    k: [
      FOOT,
      "M13.5 33.5c.2-4-4.5-6.4-5-11.3-.5-4.6 3.6-7 7.4-6 3 .8 5.2 3.3 6.6 6.4 1.4-3.1 3.6-5.6 6.6-6.4 3.8-1 7.9 1.4 7.4 6-.5 4.9-5.2 7.3-5 11.300z",
      "M21 15.500V11h-3.500V8H21V4.800h3V8h3.500v3H24v4.500z",
    ],
    q: [
      FOOT,
      "M13.5 33.500L8 16l7.5 8 2-13.5 5 12.2 5-12.2 2 13.500L37 16l-5.5 17.500z",
      "M8 12.200a2.3 2.3 0 1 1 0 4.6 2.3 2.3 0 0 1 0-4.600zM17.5 6.500a2.3 2.3 0 1 1 0 4.6 2.3 2.3 0 0 1 0-4.600zM27.5 6.500a2.3 2.3 0 1 1 0 4.6 2.3 2.3 0 0 1 0-4.600zM37 12.200a2.3 2.3 0 1 1 0 4.6 2.3 2.3 0 0 1 0-4.600z",
    ],
    r: [
      FOOT,
      "M15 33.500l1.2-15h12.600l1.2 15z",
      "M12.5 8h4.300v3.200h3.500V8h4.400v3.200h3.500V8h4.300v7.600l-2.5 2.900H15l-2.5-2.900z",
    ],
    b: [
      FOOT,
      "M15.5 33.500c.8-2 1-3.4-.6-5.3-4-4.8-1.6-11.3 7.6-18.2 9.2 6.9 11.6 13.4 7.6 18.2-1.6 1.9-1.4 3.3-.6 5.300z",
      "M22.5 5a2.4 2.4 0 1 1 0 4.8 2.4 2.4 0 0 1 0-4.800z",
    ],
    n: [
      FOOT,
      "M14 33.500c0-7 6-8.5 6.3-13-2 2.2-4.6 2.3-6 4.2-1.3 1.7-3.6 2.1-5-.2-1-1.7-.4-3 .8-4.5 2.3-2.9 2.7-6.2 5.2-8.500L15.8 6l4.5 3C28.5 8.5 34 15 33.5 25c-.1 3-.8 6-1.5 8.500z",
    ],
    p: [
      FOOT,
      "M15.5 33.500c.4-4.7 2.2-7.6 3.8-10.300h6.400c1.6 2.7 3.4 5.6 3.8 10.300z",
      "M22.5 10.500a6.6 6.6 0 1 1 0 13.2 6.6 6.6 0 0 1 0-13.200z",
    ],
  };

  /** [{piece, file, rank}] of a FEN; anything that is none gives an empty board. */
  function pieces(fen) {
    const out = [];
    String(fen)
      .split(" ")[0]
      .split("/")
      .slice(0, 8)
      .forEach((row, i) => {
        let file = 0;
        for (const c of row) {
          if (c >= "1" && c <= "8") {
            file += Number(c);
            continue;
          }
          if (PIECES[c.toLowerCase()] && file < 8) out.push({ piece: c, file, rank: 7 - i });
          file += 1;
        }
      });
    return out;
  }

  /** [from, to] squares of a move in coordinates, or null. */
  function move(uci) {
    if (!/^[a-h][1-8][a-h][1-8][qrbn]?$/.test(uci || "")) return null;
    const square = (s) => ({ file: s.charCodeAt(0) - 97, rank: Number(s[1]) - 1 });
    return [square(uci.slice(0, 2)), square(uci.slice(2, 4))];
  }

  const X = (file) => SQUARE * file,
    Y = (rank) => SQUARE * (7 - rank);

  function board(step) {
    const found = pieces(step.fen),
      names = found.map((p) => `${p.piece} on ${"abcdefgh"[p.file]}${p.rank + 1}`);
    const out = svg("svg", {
      viewBox: "0 0 360 360",
      class: "board",
      role: "img",
      "aria-label": "Board: " + names.join(", "),
    });
    for (let rank = 0; rank < 8; rank++) {
      for (let file = 0; file < 8; file++) {
        out.append(
          svg("rect", {
            x: X(file),
            y: Y(rank),
            width: SQUARE,
            height: SQUARE,
            class: (file + rank) % 2 ? "pale" : "deep",
          }),
        );
      }
    }
    const squares = move(step.uci);
    for (const s of squares || []) {
      out.append(
        svg("rect", {
          x: X(s.file),
          y: Y(s.rank),
          width: SQUARE,
          height: SQUARE,
          class: step.illegal ? "wrong" : "last",
        }),
      );
    }
    for (let i = 0; i < 8; i++) {
      out.append(
        svg(
          "text",
          { x: X(i) + 42, y: 357, class: `coordinate ${i % 2 ? "on-pale" : "on-deep"}`, "text-anchor": "end" },
          "abcdefgh"[i],
        ),
      );
      out.append(
        svg("text", { x: 3, y: Y(i) + 11, class: `coordinate ${i % 2 ? "on-pale" : "on-deep"}` }, String(i + 1)),
      );
    }
    for (const p of found) {
      const white = p.piece === p.piece.toUpperCase();
      const shapes = PIECES[p.piece.toLowerCase()].map((d) => svg("path", { d }));
      out.append(
        svg(
          "g",
          { transform: `translate(${X(p.file)} ${Y(p.rank)})`, class: white ? "piece white" : "piece black" },
          ...shapes,
        ),
      );
    }
    if (step.illegal && squares) {
      const [a, b] = squares.map((s) => [X(s.file) + 22.5, Y(s.rank) + 22.5]);
      out.append(svg("path", { d: `M${a}L${b}`, class: "wrong-line" }));
    }
    return out;
  }

  const format = (x) => (x === null || x === undefined ? "–" : String(Number(x.toPrecision(3))));

  class Viewer {
    constructor(box) {
      this.box = box;
      this.main = box.id === "viewer";
      this.head = el("p", { class: "viewer-head" });
      this.stage = el("div", { class: "viewer-stage" });
      this.said = el("p", { class: "viewer-said", "aria-live": "polite" });
      this.moves = el("ol", { class: "moves", "aria-label": "Moves" });
      const button = (label, title, go) => {
        const b = el("button", { type: "button", title, "aria-label": title }, label);
        b.addEventListener("click", go);
        return b;
      };
      this.bar = el(
        "div",
        { class: "viewer-bar" },
        button("|◂", "First position", () => this.go(0)),
        button("◂", "Back", () => this.go(this.ply - 1)),
        button("▸", "Forward", () => this.go(this.ply + 1)),
        button("▸|", "Last position", () => this.go(Infinity)),
      );
      box.append(
        this.head,
        el(
          "div",
          { class: "viewer-body" },
          el("div", { class: "viewer-left" }, this.stage, this.bar, this.said),
          this.moves,
        ),
      );
      box.addEventListener("keydown", (e) => {
        const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[e.key];
        if (step === undefined) return;
        e.preventDefault();
        this.go(this.ply + step);
      });
      this.load(Number(box.dataset.viewer), 0);
    }

    load(index, ply) {
      const game = data.games[index];
      if (!game) return;
      [this.index, this.game, this.ply] = [index, game, 0];
      this.steps = game.steps.length ? game.steps : [{ text: game.text }];
      this.bar.hidden = this.moves.hidden = this.steps.length < 2;
      this.box.classList.toggle("text-only", !game.board);
      this.head.replaceChildren(
        el("i", { class: "swatch", style: `background:var(--c${Number(game.colour)})` }),
        el("b", {}, game.stage),
        ` ${game.decode}`,
        game.opponent ? ` against ${game.opponent}` : "",
        ": ",
        el("b", { class: game.outcome }, game.outcome),
        ` (${game.result})`,
        el("span", { class: "muted" }, ` reward ${format(game.score)}, gold ${format(game.gold)}, ${game.prompt}`),
      );
      this.list();
      this.go(ply);
    }

    /** The move list: numbered pairs, each ply a button. */
    list() {
      this.buttons = [];
      const rows = [];
      this.steps.forEach((s, i) => {
        const whole = s.text !== undefined ? `step ${i + 1}` : i === 0 ? null : s.san || s.uci || "?";
        if (whole === null) return;
        const b = el(
          "button",
          { type: "button", class: s.illegal ? "illegal" : "" },
          s.illegal ? `${whole} illegal` : whole,
        );
        b.addEventListener("click", () => this.go(i));
        this.buttons[i] = b;
        if (s.by !== "black" || !rows.length) rows.push(el("li"));
        rows[rows.length - 1].append(b);
      });
      this.moves.replaceChildren(...rows);
    }

    go(ply) {
      this.ply = Math.max(0, Math.min(this.steps.length - 1, ply));
      const step = this.steps[this.ply];
      this.stage.replaceChildren(step.fen === undefined ? el("pre", {}, step.text || "") : board(step));
      const move = this.ply ? `${step.by || ""} ${step.san || step.uci || ""}`.trim() : "start";
      const said = step.illegal
        ? [el("b", { class: "illegal" }, `No legal move: the model wrote “${step.uci || ""}”.`)]
        : step.fen === undefined
          ? []
          : [`${this.ply} of ${this.steps.length - 1}: ${move}`];
      this.said.replaceChildren(...said);
      this.buttons.forEach((b, i) => b.toggleAttribute("aria-current", i === this.ply));
      const current = this.buttons[this.ply];
      if (current) this.moves.scrollTop = current.offsetTop - this.moves.clientHeight / 2;
      else this.moves.scrollTop = 0;
      if (!this.main || !this.ready) return;
      try {
        history.replaceState(null, "", `#game=${this.index}&ply=${this.ply}`);
      } catch {
        /* inside a sandboxed frame there is no history */
      }
    }
  }

  const viewers = [...document.querySelectorAll("[data-viewer]")].map((box) => new Viewer(box));
  const main = viewers.find((v) => v.main);
  if (!main) return;
  const options = [...document.querySelectorAll("[data-game]")];
  const choose = (index, ply) => {
    main.load(index, ply);
    for (const b of options) b.setAttribute("aria-pressed", String(Number(b.dataset.game) === main.index));
  };
  for (const b of options) b.addEventListener("click", () => choose(Number(b.dataset.game), 0));
  const wanted = hash();
  choose(Number(wanted.get("game") ?? main.index), Number(wanted.get("ply") ?? 0));
  main.ready = true;
  if (wanted.has("game")) document.getElementById("games").scrollIntoView();
})();
