/* OHIF's configuration on Isocenter's gateway: one archive, on this origin, and no other network use.
 *
 * A study opens with its segmented series on the left, the segmentation already drawn over it at a slice in its
 * middle, and the result's picture on the right. A study without results opens as OHIF opens any study.
 */
(function () {
  const isocenter = '@isocenter/hanging';
  const secondaryCapture = '1.2.840.10008.5.1.4.1.1.7';
  const encapsulatedPDF = '1.2.840.10008.5.1.4.1.1.104.1';
  const imageLibrary = '111028';
  const items = sequence => [].concat(sequence || []);

  /** Whether a newer result replaces this one: the gateway then says so in the series' description. */
  const isSuperseded = displaySet => String(displaySet.SeriesDescription || '').startsWith('SUPERSEDED:');

  /** The newest segmentation among `displaySets` that was made from `image`. */
  function segmentationOf(image, displaySets) {
    return displaySets
      .filter(
        other =>
          other.Modality === 'SEG' &&
          other.referencedSeriesInstanceUID === image.SeriesInstanceUID &&
          !isSuperseded(other)
      )
      .sort((a, b) => contentMoment(b).localeCompare(contentMoment(a)))[0];
  }

  function contentMoment(displaySet) {
    const { ContentDate = '', ContentTime = '' } = displaySet.instance || {};
    return `${ContentDate}${ContentTime}`;
  }

  /** Whether `picture` was captured from an image series that a segmentation of `displaySets` was made from. */
  function isPictureOfSegmented(picture, displaySets) {
    const first = (picture.images || [])[0] || {};
    const source = [].concat(first.SourceImageSequence || [])[0];
    const isCapture = String(first.SOPClassUID || '').startsWith(secondaryCapture);
    return isCapture && !isSuperseded(picture) && Boolean(source) && displaySets.some(
      image =>
        segmentationOf(image, displaySets) &&
        (image.images || []).some(slice => slice.SOPInstanceUID === source.ReferencedSOPInstanceUID)
    );
  }

  /** The index of the image of `image` nearest to the middle frame of its segmentation (by position, in mm). */
  function middleSegmentedIndex(image, segmentation) {
    const frames = [].concat(segmentation.instance.PerFrameFunctionalGroupsSequence || []);
    const middle = position(frames.map(planeOf).filter(Boolean).sort(along(image))[frames.length >> 1]);
    if (!middle) {
      return undefined;
    }
    const distances = image.images.map(slice => distance(position(slice.ImagePositionPatient), middle));
    return distances.indexOf(Math.min(...distances));
  }

  function planeOf(frame) {
    const plane = [].concat(frame.PlanePositionSequence || [])[0];
    return plane && plane.ImagePositionPatient;
  }

  const position = values => values && Array.from(values, Number);
  const distance = (a, b) => Math.hypot(...a.map((value, axis) => value - b[axis]));

  /** Sorts positions along the normal of the image's slices. */
  function along(image) {
    const [x1, y1, z1, x2, y2, z2] = position(image.images[0].ImageOrientationPatient) || [1, 0, 0, 0, 1, 0];
    const normal = [y1 * z2 - z1 * y2, z1 * x2 - x1 * z2, x1 * y2 - y1 * x2];
    const depth = values => position(values).reduce((sum, value, axis) => sum + value * normal[axis], 0);
    return (a, b) => depth(a) - depth(b);
  }

  const selector = (...rules) => ({
    seriesMatchingRules: rules.map(([attribute, value, weight, required]) => ({
      attribute,
      weight,
      required,
      constraint: { equals: { value } },
    })),
  });

  const viewport = (viewportId, ...displaySets) => ({
    viewportOptions: {
      viewportId,
      viewportType: 'stack',
      toolGroupId: 'default',
      allowUnmatchedView: false,
      initialImageOptions: { custom: 'isocenterInitialImage' },
      syncGroups: [{ type: 'hydrateseg', id: 'sameFORId', source: true, target: true }],
    },
    displaySets: displaySets.map(id => ({ id })),
  });

  const stage = (name, ...viewports) => ({
    name,
    stageActivation: { enabled: { minViewportsMatched: viewports.length } },
    viewportStructure: { layoutType: 'grid', properties: { rows: 1, columns: viewports.length } },
    viewports,
  });

  const protocol = {
    id: isocenter,
    name: 'Images with their results',
    protocolMatchingRules: [
      { attribute: 'isocenterHasResults', weight: 1000, required: true, constraint: { equals: { value: true } } },
    ],
    toolGroupIds: ['default'],
    numberOfPriorsReferenced: 0,
    displaySetSelectors: {
      segmented: selector(['isocenterIsSegmented', true, 10, true]),
      segmentation: selector(['isocenterIsShownSegmentation', true, 10, true]),
      picture: selector(['isocenterIsPicture', true, 10, true]),
    },
    stages: [
      stage('Segmentation and picture', viewport('segmented', 'segmented', 'segmentation'), viewport('picture', 'picture')),
      stage('Segmentation', viewport('segmented', 'segmented', 'segmentation')),
    ],
  };

  /** OHIF (3.13) lets a reader put nothing into this protocol's viewports that the protocol itself would not. */
  function letReadersChoose(hangingProtocolService, displaySetService) {
    const byProtocol = hangingProtocolService.getViewportsRequireUpdate.bind(hangingProtocolService);
    hangingProtocolService.getViewportsRequireUpdate = (viewportId, displaySetUID, followsProtocol = true) => {
      const chosen = displaySetService.getDisplaySetByUID(displaySetUID) || {};
      if (hangingProtocolService.getActiveProtocol().protocol?.id !== isocenter || chosen.unsupported) {
        return byProtocol(viewportId, displaySetUID, followsProtocol);
      }
      // Together with its image an overlay replaces the one before; alone it would be added to it, or be lost.
      const image = chosen.isOverlayDisplaySet && chosen.referencedDisplaySetInstanceUID;
      const displaySetInstanceUIDs = image ? [image, displaySetUID] : [displaySetUID];
      // Given anew, since the viewport would keep those of what it showed, such as the colours of a parametric map.
      const displaySetOptions = displaySetInstanceUIDs.map(() => ({}));
      return [{ viewportId, displaySetInstanceUIDs, displaySetOptions }];
    };
  }

  /** OHIF shows a report as measurements, black where none has coordinates, or as text, and ends at an unnamed item. */
  function makeReadable(report) {
    if (!report.isImagingMeasurementReport || !hasCoordinates(report.instance)) {
      report.isImagingMeasurementReport = false;
      report.instances = [readable(report.instance)];
    }
  }

  const hasCoordinates = item =>
    /^SCOORD/.test(item.ValueType) || items(item.ContentSequence).some(hasCoordinates);

  /** A copy of a report's content item without what has no words: references, UIDs, and the list of its images. */
  const readable = item => ({
    ...item,
    ContinuityOfContent: 'SEPARATE', // a line for each
    ContentSequence: items(item.ContentSequence)
      .filter(child => items(child.ConceptNameCodeSequence)[0])
      .filter(child => !['IMAGE', 'COMPOSITE', 'WAVEFORM', 'TCOORD', 'UIDREF'].includes(child.ValueType))
      .filter(child => items(child.ConceptNameCodeSequence)[0].CodeValue !== imageLibrary)
      .map(readable),
  });

  /** The whole width of the viewport for the page, instead of half of it for the browser's list of pages. */
  function fitToViewport(pdf) {
    const fetched = pdf.getRenderedUrl;
    pdf.getRenderedUrl = async options => {
      const page = await fetched(options);
      return { ...page, url: page.url && `${page.url}#navpanes=0&view=FitH` };
    };
  }

  // OHIF sets a finding as one line, which the viewport cuts off.
  const wrapped = document.createElement('style');
  wrapped.textContent = '[data-cy="viewport-pane"] pre { white-space: pre-wrap }';
  document.head.append(wrapped);

  const extension = {
    id: '@isocenter/extension-results',
    preRegistration({ servicesManager }) {
      const { hangingProtocolService, displaySetService } = servicesManager.services;
      const add = (name, callback) => hangingProtocolService.addCustomAttribute(name, name, callback);
      const shown = () => displaySetService.getActiveDisplaySets();
      letReadersChoose(hangingProtocolService, displaySetService);
      displaySetService.subscribe(displaySetService.EVENTS.DISPLAY_SETS_ADDED, ({ displaySetsAdded }) => {
        displaySetsAdded.filter(one => one.Modality === 'SR').forEach(makeReadable);
        displaySetsAdded.filter(one => one.SOPClassUID === encapsulatedPDF).forEach(fitToViewport);
      });
      add('isocenterHasResults', () => shown().some(one => segmentationOf(one, shown())));
      add('isocenterIsSegmented', one => Boolean(segmentationOf(one, shown())));
      add('isocenterIsShownSegmentation', one => shown().some(image => segmentationOf(image, shown()) === one));
      add('isocenterIsPicture', one => isPictureOfSegmented(one, shown()));
      add('isocenterInitialImage', ([image]) => {
        const segmentation = image && segmentationOf(image, shown());
        const index = segmentation && middleSegmentedIndex(image, segmentation);
        return index === undefined ? undefined : { index };
      });
    },
    getHangingProtocolModule: () => [{ name: isocenter, protocol }],
  };

  const byResults = { hangingProtocol: { $set: [isocenter, 'default'] } };

  window.config = {
    name: 'isocenter',
    routerBasename: null,
    extensions: [extension],
    modes: [],
    modesConfiguration: { '@ohif/mode-longitudinal': byResults, '@ohif/mode-basic': byResults },
    customizationService: [{ 'ohif.tours': { $set: [] }, autoCineModalities: { $set: ['US', 'XA'] } }],
    showStudyList: true,
    showWarningMessageForCrossOrigin: false,
    showCPUFallbackMessage: true,
    showLoadingIndicator: true,
    strictZSpacingForVolumeViewport: true,
    investigationalUseDialog: { option: 'never' },
    disableConfirmationPrompts: true,
    maxNumberOfWebWorkers: 3,
    maxNumRequests: { interaction: 20, thumbnail: 5, prefetch: 20 },
    defaultDataSourceName: 'isocenter',
    dataSources: [
      {
        namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
        sourceName: 'isocenter',
        configuration: {
          friendlyName: 'Isocenter',
          name: 'isocenter',
          qidoRoot: '/dicom-web',
          wadoRoot: '/dicom-web',
          qidoSupportsIncludeField: false,
          supportsFuzzyMatching: false,
          supportsWildcard: true,
          supportsReject: false,
          imageRendering: 'wadors',
          thumbnailRendering: 'wadors',
          enableStudyLazyLoad: true,
          dicomUploadEnabled: false,
          // Orthanc renders no PDF: the document's bytes are fetched in a part of its answer, as bulk data.
          singlepart: 'video',
          bulkDataURI: { enabled: true },
          omitQuotationForMultipartRequest: true,
        },
      },
    ],
  };
})();
