// What the kernel says: nnsight_lab/jupyter/sidebar.py is the other end.

export const TARGET = 'nnsight_lab.sidebar';

export interface Run {
  id: string;
  cell: string;
  execution: string;
  model: string;
  where: string;
  prompt: string;
  state: string;
  steps: number;
  of: number;
  place: number;
  sent?: number;
  seconds: number;
  bytes: number;
  error: string;
}

export interface Model {
  variable?: string;
  name: string;
  where: string;
  about: string;
}

/** The runs of a served model, of everybody. */
export interface Queue {
  name: string;
  state: string;
  running: number;
  waiting: number;
}

export interface Server {
  state: 'none' | 'open' | 'lost' | 'closed';
  url?: string;
  variable?: string;
  error?: string;
  models?: Model[];
  queue?: Queue[];
}

export interface Module {
  path: string;
  kind: string;
  standard: boolean;
  code: string;
  ports: string[];
}

export interface News {
  first: boolean;
  runs: Run[];
  models?: Model[];
  server?: Server;
}

const ENDED = new Set(['done', 'failed', 'cancelled']);

export function hasEnded(run: Run): boolean {
  return ENDED.has(run.state);
}
