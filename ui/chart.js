// Draws one Plotly figure and changes it in place when new data come, so that the reader's zoom and
// selection stay where they are. Called by Streamlit for every new payload of the same chart.

const NOTHING = "null";

function library(url) {
  window.remeltPlotly ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = url;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => {
      window.remeltPlotly = undefined;
      script.remove();
      reject(new Error(`The plotting library could not be fetched from ${script.src}.`));
    };
    document.head.append(script);
  });
  return window.remeltPlotly;
}

// Defaults of every plot, which a figure may override: the page's own font and colours, light or
// dark, and axes whose names make room for themselves.
function template(element) {
  const style = getComputedStyle(element);
  const of = (name) => style.getPropertyValue(`--st-${name}`).trim();
  const axis = {
    gridcolor: of("border-color-light"),
    linecolor: of("border-color"),
    zerolinecolor: of("border-color"),
    automargin: true,
    title: { standoff: 8 },
    ticks: "",
    tickfont: { color: of("gray-text-color") },
  };
  const ground = of("background-color");
  return {
    layout: {
      font: { family: of("font"), size: 12, color: of("text-color") },
      title: { font: { weight: 600 } },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      xaxis: axis,
      yaxis: axis,
      coloraxis: { colorbar: { tickfont: { color: of("gray-text-color") } } },
      modebar: {
        bgcolor: "rgba(0,0,0,0)",
        color: of("gray-color"),
        activecolor: of("text-color"),
      },
      hoverlabel: {
        bgcolor: ground,
        bordercolor: of("border-color"),
        font: { family: of("font"), size: 12, color: of("text-color") },
      },
    },
  };
}

// The same objects for as long as the chart lives: of another configuration Plotly makes a new one.
function buttons(chart) {
  const reset = {
    name: "Reset axes",
    title: "Reset axes",
    icon: window.Plotly.Icons.home,
    click: () => showAll(chart),
  };
  const full = {
    name: "Full screen",
    title: "Full screen",
    icon: {
      width: 24,
      height: 24,
      path: "M4 4h6v2H6v4H4zM14 4h6v6h-2V6h-4zM4 14h2v4h4v2H4zM18 14h2v6h-6v-2h4z",
    },
    click: () =>
      document.fullscreenElement ? document.exitFullscreen() : chart.frame.requestFullscreen(),
  };
  return document.fullscreenEnabled ? [reset, full] : [reset];
}

function make(parent) {
  const frame = document.createElement("div");
  const plot = document.createElement("div");
  frame.className = "remelt-chart";
  frame.append(plot);
  parent.append(frame);
  const chart = { frame, plot, drawn: "", sent: NOTHING, height: 0, view: {}, send: {}, calls: 0 };
  chart.resized = new ResizeObserver(() => fit(chart));
  return chart;
}

// Also called when an expander or a tab that hid the chart is opened.
function fit(chart) {
  const full = document.fullscreenElement === chart.frame;
  const [width, height] = [chart.frame.clientWidth, full ? window.innerHeight : chart.height];
  const known = chart.plot._fullLayout;
  if (!known || !width || (known.width === width && known.height === height)) return;
  window.Plotly.relayout(chart.plot, { width, height });
}

// Boxes and lassos in the units of the axes, as Python reads them.
function selected(shapes, revision) {
  const found = { box: [], lasso: [], revision };
  for (const shape of shapes ?? []) {
    if (shape.type === "rect") {
      found.box.push({ x: [shape.x0, shape.x1], y: [shape.y0, shape.y1] });
    } else if (shape.path) {
      const corners = shape.path.replace(/[MZ]/g, "").split("L").map((c) => c.split(",").map(Number));
      found.lasso.push({ x: corners.map((c) => c[0]), y: corners.map((c) => c[1]) });
    }
  }
  return found.box.length + found.lasso.length ? found : null;
}

// The same as Plotly draws them: a chart that is new to the page has the boxes that Python knows of.
function shapes(selection) {
  const at = { xref: "x", yref: "y" };
  const box = ({ x, y }) => ({ ...at, type: "rect", x0: x[0], x1: x[1], y0: y[0], y1: y[1] });
  const line = ({ x, y }) => `M${x.map((value, i) => `${value},${y[i]}`).join("L")}Z`;
  const lasso = (one) => ({ ...at, type: "path", path: line(one) });
  return [...(selection?.box ?? []).map(box), ...(selection?.lasso ?? []).map(lasso)];
}

const AXES = ["xaxis", "yaxis"];

// A range that the reader chose stays, whatever range the next figure would show by itself.
function keepView(chart) {
  chart.plot.on("plotly_relayout", (event) => {
    for (const axis of AXES) {
      if (`${axis}.range[0]` in event) {
        chart.view[axis] = [event[`${axis}.range[0]`], event[`${axis}.range[1]`]];
      }
    }
  });
  chart.plot.on("plotly_doubleclick", () => showAll(chart));
}

function showAll(chart) {
  chart.view = {};
  window.Plotly.relayout(chart.plot, chart.home);
}

// `home`: what is shown without the reader's zoom, by the newest figure.
function applyView(chart, layout) {
  chart.home = {};
  for (const axis of AXES) {
    const own = layout[axis]?.range;
    chart.home[`${axis}.${own ? "range" : "autorange"}`] = own ?? layout[axis]?.autorange ?? true;
    if (chart.view[axis]) layout[axis] = { ...layout[axis], range: chart.view[axis] };
  }
}

function listen(chart) {
  const choose = (shapes) => {
    const selection = selected(shapes, chart.plot.layout.uirevision);
    if (JSON.stringify(selection) === chart.sent) return;
    chart.sent = JSON.stringify(selection);
    chart.send.state("selection", selection);
  };
  // a mere click with the box or lasso in hand says 'selected' too, and changes nothing
  chart.plot.on("plotly_selected", () => choose(chart.plot.layout.selections));
  chart.plot.on("plotly_deselect", () => choose([]));
  chart.plot.on("plotly_click", (event) => {
    const custom = event.points[0]?.customdata;
    const number = custom?.[0] ?? custom;
    if (number !== undefined) chart.send.trigger("clicked", Number(number));
  });
}

async function draw(chart, { figure, config, about: { selects, selection } }) {
  const { plot, frame } = chart;
  const layout = { ...figure.layout, template: template(frame) };
  const colour = layout.template.layout.font.color;
  for (const trace of figure.data) {
    // names are not selected: they stay as they are
    if (trace.mode?.includes("text")) trace.unselected = { ...trace.unselected, textfont: { color: colour } };
  }
  chart.height = layout.height ?? 450;
  frame.style.minHeight = `${chart.height}px`;
  layout.width = frame.clientWidth || undefined;
  if (document.fullscreenElement === frame) layout.height = window.innerHeight;
  chart.buttons ??= buttons(chart);
  const tools = { ...config, modeBarButtonsToAdd: chart.buttons };
  const old = plot._fullLayout ? plot.layout : null;
  const same = old?.uirevision === layout.uirevision;
  if (selects) layout.selections = same ? (old.selections ?? []) : shapes(selection);
  if (!same) [chart.view, chart.sent] = [{}, JSON.stringify(selection)];
  applyView(chart, layout);
  await window.Plotly.react(plot, figure.data, layout, tools);
  if (!old) {
    keepView(chart);
    if (selects) listen(chart);
    chart.resized.observe(frame);
  }
}

export default async function (component) {
  const { data, parentElement, setStateValue, setTriggerValue } = component;
  const text = new TextDecoder().decode(data);
  const chart = (parentElement.remeltChart ??= make(parentElement));
  chart.send = { state: setStateValue, trigger: setTriggerValue };
  const call = (chart.calls += 1);
  const made = JSON.parse(text);
  chart.frame.setAttribute("role", "figure");
  chart.frame.setAttribute("aria-label", made.about.alt);
  await library(made.about.url);
  // one after the other: the next data may come while these are drawn
  chart.queue = Promise.resolve(chart.queue).catch(() => {}).then(() => {
    const drawn = text + JSON.stringify(template(chart.frame));
    const late = call !== chart.calls || !chart.frame.isConnected;
    if (late || chart.drawn === drawn) return undefined;
    chart.drawn = drawn;
    return draw(chart, made);
  });
  await chart.queue;
  return () => {
    // Streamlit also ends a call that newer data have overtaken: the chart is theirs now
    if (call !== chart.calls) return;
    chart.resized.disconnect();
    window.Plotly?.purge(chart.plot);
    chart.frame.remove();
    parentElement.remeltChart = undefined;
  };
}
