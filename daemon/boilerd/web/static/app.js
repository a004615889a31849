// What every page has; all of it works without, but for the convenience.
import { start as startCharts } from "./chart.js";
import { start as startConfirming } from "./confirm.js";
import { start as startCopying } from "./copy.js";
import { start as startKept } from "./kept.js";
import { start as startKeys } from "./keys.js";
import { start as startLists } from "./lists.js";
import { start as startLive } from "./live.js";
import { start as startPalette } from "./palette.js";
import { start as startSelecting } from "./select.js";
import { start as startTimes } from "./time.js";
import { start as startViews } from "./views.js";

startKept();
startLists();
startTimes();
startSelecting();
startConfirming();
startCopying();
startKeys();
startPalette();
startViews();
startCharts();
startLive();
