// Numbers and states as people read them.

import { Queue, Run, hasEnded } from './messages';

export function time(seconds: number): string {
  if (seconds < 0.9995) {
    return `${Math.round(seconds * 1000)} ms`;
  }
  return seconds < 59.95 ? `${seconds.toFixed(1)} s` : minutes(Math.round(seconds));
}

function minutes(seconds: number): string {
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

export function bytes(count: number): string {
  let size = count;
  for (const unit of ['B', 'kB', 'MB']) {
    if (size < 1000) {
      return `${unit === 'B' ? size : size.toFixed(1)} ${unit}`;
    }
    size /= 1000;
  }
  return `${size.toFixed(1)} GB`;
}

/** Where a run is: "9/12", "queue 2", "done". */
export function progress(run: Run): string {
  if (hasEnded(run)) {
    return run.state;
  }
  if (run.state === 'queued') {
    return `queue ${run.place}`;
  }
  if (run.state === 'sending') {
    return `sending ${Math.round((run.sent ?? 0) * 100)} %`;
  }
  return run.of > 0 ? `${run.steps}/${run.of}` : run.state;
}

/** What a served model does: "1 running, 3 waiting", "loading, 1 waiting", "idle". */
export function traffic({ state, running, waiting }: Queue): string {
  const parts = [
    state === 'ready' ? '' : state,
    running > 0 ? `${running} running` : '',
    waiting > 0 ? `${waiting} waiting` : ''
  ];
  return parts.filter(Boolean).join(', ') || 'idle';
}

/** What the status bar says: "nnl: 9/12 · queue 2". */
export function summary(runs: Run[], lost: boolean): string {
  const open = runs.filter(run => !hasEnded(run));
  const queued = open.filter(run => run.state === 'queued');
  const running = open.filter(run => run.state !== 'queued');
  const parts = running.slice(-1).map(progress);
  if (running.length > 1) {
    parts.push(`${running.length} runs`);
  }
  if (queued.length > 0) {
    parts.push(`queue ${Math.min(...queued.map(run => run.place))}`);
  }
  if (lost) {
    parts.push('server lost');
  }
  return `nnl: ${parts.join(' · ') || 'idle'}`;
}
