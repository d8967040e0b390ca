package com.google.android.play.core.assetpacks;

/** As its reference describes it (developer.android.com), as far as apps use it. */
public abstract class AssetPackLocation {
    public abstract String assetsPath();
}
