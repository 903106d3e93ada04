// What schema/plugin.json lets one choose. Without a setting registry the defaults hold.

import { ISettingRegistry } from '@jupyterlab/settingregistry';

export const PLUGIN = 'nnsight-lab:plugin';

export class Settings {
  serverUrl = '';
  views: string[] = [];
  badges = true;
  autoConnect = false;

  /** Take over what is set, now and whenever it changes. */
  async follow(registry: ISettingRegistry | null, changed: () => void): Promise<void> {
    try {
      const loaded = await registry?.load(PLUGIN);
      const read = () => {
        const said = loaded!.composite as { [key: string]: any };
        this.serverUrl = said.serverUrl ?? '';
        this.views = said.views ?? [];
        this.badges = said.badges ?? true;
        this.autoConnect = said.autoConnect ?? false;
        changed();
      };
      if (loaded) {
        loaded.changed.connect(read);
        read();
      }
    } catch {
      // The schema is not served, such as in a static site: the defaults hold.
    }
  }
}
