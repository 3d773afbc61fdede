"""The demonstration network as an application of the MONAI Deploy SDK, as its documentation shows: `whole_way`'s peer.

    TRITON_SERVER_NETLOC=host:port python app.py -i DICOM -o RESULTS -m MODELS

Its loader, selector, volume, segmentation inference and SEG writer operators, the bundle's transforms, and the network
by `TritonRemoteModel`, window by window.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.deploy.conditions import CountCondition
from monai.deploy.core import AppContext, Application, ConditionType, Fragment, Operator, OperatorSpec
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
from monai.deploy.operators.dicom_seg_writer_operator import (
    DICOMSegmentationWriterOperator,
    SegmentDescription,
)
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator
from monai.deploy.operators.dicom_series_to_volume_operator import DICOMSeriesToVolumeOperator
from monai.deploy.operators.monai_seg_inference_operator import InMemImageReader, MonaiSegInferenceOperator
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    Invertd,
    LoadImaged,
    Orientationd,
    ScaleIntensityRanged,
    Spacingd,
)
from pydicom.sr.codedict import codes

NETWORK = "thorax_network"
_ORGANS = 9
_RULES = '{"selections": [{"name": "CT", "conditions": {"Modality": "(?i)CT"}}]}'


class OrgansOperator(Operator):
    """The bundle's transforms around the SDK's own inference operator."""

    def __init__(self, fragment: Fragment, *args: Any, app_context: AppContext, **kwargs: Any) -> None:
        self.app_context = app_context
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("image")
        spec.output("seg_image").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        image = op_input.receive("image")
        before = _before(InMemImageReader(image))
        inference = MonaiSegInferenceOperator(
            self.fragment,
            roi_size=(96, 80, 80),
            pre_transforms=before,
            post_transforms=_after(before),
            overlap=0.4,
            sw_batch_size=1,
            mode="gaussian",
            padding_mode="replicate",
            app_context=self.app_context,
            model_name=NETWORK,
            name="monai_seg_inference",
        )
        inference.input_dataset_key, inference.pred_dataset_key = "image", "pred"
        op_output.emit(inference.compute_impl(image, context), "seg_image")


def _before(reader: InMemImageReader) -> Compose:
    return Compose(
        [
            LoadImaged("image", reader=reader),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS"),
            Spacingd("image", pixdim=(3.0, 3.0, 3.0), mode="bilinear"),
            ScaleIntensityRanged("image", a_min=-1000, a_max=500, b_min=-1.0, b_max=1.0, clip=True),
            EnsureTyped("image"),
        ]
    )


def _after(before: Compose) -> Compose:
    return Compose(
        [
            Activationsd("pred", softmax=True),
            Invertd("pred", transform=before, orig_keys="image", nearest_interp=False, to_tensor=True),
            AsDiscreted("pred", argmax=True),
        ]
    )


class ThoraxApplication(Application):
    def compose(self) -> None:
        context = Application.init_app_context(self.argv)
        loader = DICOMDataLoaderOperator(
            self, CountCondition(self, 1), input_folder=Path(context.input_path), name="loader"
        )
        selector = DICOMSeriesSelectorOperator(self, rules=_RULES, name="selector")
        volume = DICOMSeriesToVolumeOperator(self, name="volume")
        organs = OrgansOperator(self, app_context=context, name="organs")
        writer = DICOMSegmentationWriterOperator(
            self,
            segment_descriptions=[_described(number) for number in range(1, _ORGANS + 1)],
            output_folder=Path(context.output_path),
            name="writer",
        )
        selected = {("study_selected_series_list", "study_selected_series_list")}
        self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, volume, selected)
        self.add_flow(volume, organs, {("image", "image")})
        self.add_flow(selector, writer, selected)
        self.add_flow(organs, writer, {("seg_image", "seg_image")})


def _described(number: int) -> SegmentDescription:
    return SegmentDescription(
        segment_label=f"organ {number}",
        segmented_property_category=codes.SCT.Organ,
        segmented_property_type=codes.SCT.Organ,
        algorithm_name="thorax organs",
        algorithm_family=codes.DCM.ArtificialIntelligence,
        algorithm_version="0.1.0",
    )


if __name__ == "__main__":
    ThoraxApplication().run()
