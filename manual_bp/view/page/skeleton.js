// The page without its numbers. Constant text: nothing from data is ever joined into it.

export const SKELETON = `
<header>
  <div class="who"><h1>Backpropagation, seen</h1><p data-part="name"></p></div>
  <div class="switches" role="group" aria-label="Switches">
    <span class="field"><span class="label">Symbols of document</span>
      <span class="buttons" role="group" aria-label="Notation" data-part="notation"></span></span>
    <button type="button" data-part="exercise" aria-pressed="false">Exercise</button>
    <button type="button" data-part="theme">Dark</button>
    <label class="file">Compare with …<input type="file" accept=".html,text/html" data-part="file"
      aria-label="Another run's look.html, to see beside this one"></label>
  </div>
</header>
<div data-part="trouble" role="note"></div>
<main>
  <section class="left" aria-label="Image">
    <div class="panel">
      <h2 data-part="first">1 · An image <small>click one, or draw</small></h2>
      <div class="pad">
        <canvas data-part="pad" tabindex="0"></canvas>
        <div class="verdict">
          <p data-part="verdict" aria-live="polite"></p>
          <label class="target">target y<select data-part="target"></select></label>
          <button type="button" data-part="clear">New drawing</button>
        </div>
      </div>
      <div data-part="outputs" role="img"></div>
      <div class="filters">
        <span class="buttons" role="group" aria-label="Which images" data-part="filter"></span>
        <select data-part="class" aria-label="Which class"></select>
      </div>
      <div data-part="gallery" role="group" aria-label="Images"></div>
    </div>
  </section>
  <section class="middle" aria-label="Network">
    <div class="panel">
      <div class="steps" role="group" aria-label="Step through">
        <h2>2 · Forward, then back</h2>
        <span class="buttons">
          <button type="button" data-part="back" aria-label="One step back" title="one step back (←)">◀</button>
          <button type="button" data-part="play" title="play (space)">Step through</button>
          <button type="button" data-part="on" aria-label="One step on" title="one step on (→)">▶</button>
        </span>
        <span class="buttons">
          <button type="button" data-part="again">Train on it</button>
          <button type="button" data-part="reset">Reset</button>
        </span>
      </div>
      <div data-part="story" aria-live="polite"></div>
      <div class="net" data-part="net" tabindex="0" role="application"
        aria-label="The network. Arrow up and down: another unit. Page up and down: another layer."></div>
    </div>
    <div class="panel" data-part="unit" aria-label="The chosen unit"></div>
  </section>
  <section class="right" aria-label="What arrives">
    <div class="panel">
      <h2>3 · What arrives <small>log scale</small></h2>
      <span class="buttons" role="group" aria-label="Quantity" data-part="quantity"></span>
      <div data-part="staircase"></div>
    </div>
    <div class="panel" data-part="time">
      <h2>4 · While it learned <small data-part="epoch"></small></h2>
      <input type="range" min="0" step="1" data-part="slider" aria-label="Epoch">
      <div data-part="curves"></div>
    </div>
    <div class="panel" data-part="pictures"></div>
  </section>
</main>
<p class="keys">Keys: <kbd>←</kbd> <kbd>→</kbd> step · <kbd>space</kbd> play · <kbd>↑</kbd>
<kbd>↓</kbd> unit · <kbd>Page ↑</kbd> <kbd>Page ↓</kbd> layer · <kbd>[</kbd> <kbd>]</kbd> epoch ·
<kbd>n</kbd> <kbd>p</kbd> image · <kbd>Esc</kbd> all. Everything here is computed in this page, by the
documents’ formulas; nothing is sent anywhere.</p>
<div class="tip" data-part="tip" role="tooltip" hidden></div>
`;
