package com.google.android.play.core.assetpacks;

import java.util.List;

/** As its reference describes it, as far as apps use it. */
public interface AssetPackManager {
    AssetPackLocation getPackLocation(String packName);

    /** Returns a Task of Play services, which nobody here waits for. */
    Object fetch(List<String> packNames);
}
